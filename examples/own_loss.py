"""A policy loss of your own, with its own clip range and aggregation, chosen by its name.

    python examples/own_loss.py --model path/to/model

The same function in a file works from the command line: `gspo train algorithm.external_modules=[FILE.py]
actor_rollout_ref.actor.policy_loss=one_sided`. Without --model a small untrained transformer is made.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import gspo
from gspo.algorithms import agg_loss


@gspo.register_policy_loss("one_sided", clip=(0.1, 0.3), aggregation="seq-mean-token-mean", zero_advantage_is_zero=True)
def one_sided(
    old_log_prob: Tensor,
    log_prob: Tensor,
    advantages: Tensor,
    response_mask: Tensor,
    loss_agg_mode: str,
    config: Any,
    **_: Any,
) -> tuple[Tensor, dict[str, Any]]:
    """PPO's objective with a clip above only: -min(r A, min(r, 1 + high) A). All tensors are (responses, tokens)."""
    ratio = (log_prob - old_log_prob).exp()
    high = 1 + config.clip_ratio_high
    losses = -torch.minimum(ratio * advantages, ratio.clamp(max=high) * advantages)
    return agg_loss(losses, response_mask, loss_agg_mode, **config.global_batch_info), {}


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--model", help="folder or hub name of a causal language model")
    parser.add_argument("--out", type=Path, default=Path("runs/own_loss"))
    parser.add_argument("--steps", type=int, default=10)
    args = parser.parse_args(arguments)
    model = args.model
    if model is None:
        from gspo.models.scratch import make_model_folder

        model = args.out / "untrained"
        if not model.exists():
            make_model_folder(model, hidden_size=64, num_layers=2, max_positions=128)
    run = gspo.train(
        model=model,
        train_data=[{"prompt": f"Say something about the number {number}."} for number in range(8)],
        rewards=lambda solution_str: len(set(solution_str)) / (1 + len(solution_str)),
        policy_loss="one_sided",
        n=8,
        train_batch_size=4,
        ppo_mini_batch_size=2,
        max_response_length=12,
        lr=1e-3,
        total_training_steps=args.steps,
        default_local_dir=str(args.out / "run"),
    )
    actor = run.config.actor_rollout_ref.actor
    print(
        f"clip {actor.clip_ratio_low} / {actor.clip_ratio_high}, {actor.loss_agg_mode}; {run.step} steps: {run.report}"
    )


if __name__ == "__main__":
    main()
