"""The model that is trained, with its optimizer and schedule: what a checkpoint holds of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from gspo.algorithms.stats import Mean, Stat
from gspo.checkpoint import Checkpoint, CheckpointError, export_hf, load_optimizer, optimizer_to_tensors
from gspo.config.schema import ModelConfig, OptimConfig
from gspo.models import Policy, load_model, load_tokenizer, output_head, verify_packed_forward
from gspo.trainer.optim import clip_and_step, make_optimizer, make_schedule

__all__ = ["Actor", "load_actor_tokenizer", "load_policy"]


def load_actor_tokenizer(config: ModelConfig) -> PreTrainedTokenizerBase:
    """The tokenizer that `actor_rollout_ref.model` names."""
    return load_tokenizer(
        config.tokenizer_path or config.path,
        chat_template=config.chat_template,
        trust_remote_code=config.trust_remote_code,
    )


def load_policy(
    config: ModelConfig, tokenizer: PreTrainedTokenizerBase, device: str, longest: int, *, train: bool = True
) -> Policy:
    """The policy that `actor_rollout_ref.model` names, checked to run what the run will ask of it.

    Args:
        config: the `model` section.
        tokenizer: whose tokens it reads.
        device: where it goes.
        longest: tokens of the longest prompt and response together.
        train: whether gradients are wanted.

    Raises:
        ValueError: it cannot be loaded or packed, or it is too small for the tokenizer or the lengths.
    """
    model = load_model(
        config.path,
        dtype=config.dtype,
        device=device,
        override_config=config.override_config,
        gradient_checkpointing=config.enable_gradient_checkpointing and train,
        trust_remote_code=config.trust_remote_code,
    )
    policy = Policy(model)
    vocabulary = output_head(model).weight.shape[0]
    if len(tokenizer) > vocabulary:
        raise ValueError(
            f"the tokenizer has {len(tokenizer)} tokens and the model in {config.path} only {vocabulary}: "
            "they do not belong together; set actor_rollout_ref.model.tokenizer_path to the model's own"
        )
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if positions is not None and longest > positions:
        raise ValueError(
            f"data.max_prompt_length + data.max_response_length = {longest} tokens, and the model in {config.path} "
            f"has {positions} positions: lower one of them"
        )
    verify_packed_forward(policy)
    model.requires_grad_(train)
    return policy


class Actor:
    """A policy that is trained.

    Args:
        policy: the policy.
        optim: its optimizer's settings.
        total_steps: training steps of the run, for the schedule.
    """

    def __init__(self, policy: Policy, optim: OptimConfig, total_steps: int) -> None:
        self.policy = policy
        self.optimizer = make_optimizer(policy.model, optim)
        self.schedule = make_schedule(self.optimizer, optim, total_steps)
        self._clip_grad = optim.clip_grad

    @property
    def lr(self) -> float:
        """The current learning rate."""
        return float(self.optimizer.param_groups[0]["lr"])

    def step(self) -> dict[str, Stat]:
        """One optimizer step on the gradients gathered so far; a gradient that is not finite is dropped and counted."""
        norm = clip_and_step(self.policy.model, self.optimizer, self._clip_grad)
        skipped = not math.isfinite(norm)
        stats: dict[str, Stat] = {"actor/skipped_steps": Mean(float(skipped))}
        return stats if skipped else stats | {"actor/grad_norm": Mean(norm)}

    def tensors(self) -> dict[str, Mapping[str, Tensor]]:
        """Weights and optimizer moments, for a checkpoint."""
        model = self.policy.model
        moments, _ = optimizer_to_tensors(self.optimizer, model.named_parameters())
        return {"actor": model.state_dict(), "actor_optim": moments}

    def state(self) -> dict[str, Any]:
        """What of optimizer and schedule is no tensor, for a checkpoint."""
        _, optimizer = optimizer_to_tensors(self.optimizer, self.policy.model.named_parameters())
        return {"optimizer": optimizer, "schedule_step": self.schedule.last_epoch}

    def load(self, checkpoint: Checkpoint, state: Mapping[str, Any]) -> None:
        """Goes back to where a checkpoint was taken.

        Raises:
            CheckpointError: it is of another model.
        """
        model = self.policy.model
        try:
            model.load_state_dict(checkpoint.tensors["actor"])
        except RuntimeError as error:
            raise CheckpointError(
                f"the weights in {checkpoint.path} are of another model than actor_rollout_ref.model.path: "
                f"resume with the model the run began with ({str(error).splitlines()[-1].strip()})"
            ) from error
        moments = checkpoint.tensors["actor_optim"]
        load_optimizer(self.optimizer, model.named_parameters(), moments, state["optimizer"])
        self.schedule.last_epoch = state["schedule_step"]
        for group, rate in zip(self.optimizer.param_groups, self._rates(), strict=True):
            group["lr"] = rate

    def _rates(self) -> list[float]:
        """Learning rates of the schedule's current step: those of the run as it is configured now."""
        steps = self.schedule.last_epoch
        return [
            float(base) * factor(steps) for base, factor in zip(self.schedule.base_lrs, self.schedule.lr_lambdas, strict=True)
        ]

    def export(self, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
        """Writes the model as a Hugging Face folder."""
        export_hf(self.policy.model, tokenizer, folder)
