"""What a run says of itself before it trains: the model, the algorithm, the critic, the data and the folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from gspo.config import Config
from gspo.data import PromptDataset
from gspo.models import Policy
from gspo.models.precision import product_dtype

__all__ = ["run_header"]


def run_header(config: Config, policy: Policy, data: PromptDataset, folder: Path) -> dict[str, str]:
    """Name and text of each line."""
    actor, rollout = config.actor_rollout_ref.actor, config.actor_rollout_ref.rollout
    model = policy.model
    millions = model.num_parameters() / 1e6
    precision = f"{model.dtype}, products in {product_dtype(model)}" if product_dtype(model) else str(model.dtype)
    clip: Any = actor.clip_ratio_low, actor.clip_ratio_high
    path, own_lr = config.critic.model.path or config.actor_rollout_ref.model.path, f"lr {config.critic.optim.lr:g}"
    if config.wants_discriminator:
        critic = f"discriminator (GAD) on {path}, teacher in {config.data.teacher_key}, {own_lr}"
    else:
        shared = config.shares_backbone
        critic = (
            f"value head on {'the actor itself' if shared else path}, clip {config.critic.cliprange_value:g}, "
            f"{config.critic.loss_agg_mode}, {f'weight {config.critic.value_loss_coef:g}' if shared else own_lr}"
        )
    return {
        "model": f"{config.actor_rollout_ref.model.path} ({type(model).__name__}, {millions:.1f}M, {precision})",
        "algorithm": f"{actor.policy_loss.loss_mode} with {config.algorithm.adv_estimator} advantages, "
        f"clip {json.dumps(clip)[1:-1]}, {actor.loss_agg_mode}, lr {actor.optim.lr:g}",
        **({"critic": critic} if config.critic.enable else {}),
        "data": data.summary(),
        "batch": f"{config.data.train_batch_size} prompts x {rollout.n} responses, "
        f"mini-batches of {actor.ppo_mini_batch_size} prompts",
        "run folder": str(folder),
    }
