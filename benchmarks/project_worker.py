"""This project's step on a workload, step by step on command.

Commands: `step`; `prepare-check FILE` fills in the old log-probabilities of a set of `loss_check.py`; `check FILE`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from loss_check import CheckGroup, add_noise, read_groups, write_groups
from machine import peak_memory_mb
from project import gradient_norm, open_workload, run_step, set_head
from serving import Replies, serve
from step import shared_options
from torch import Tensor
from workloads import WORKLOADS

from gspo.algorithms import compute_discriminator_loss, compute_policy_loss_gspo
from gspo.groups import Group, GroupBatch, Prompt, Response
from gspo.models import Policy
from gspo.trainer import TrainRun
from gspo.trainer.batching import counted
from gspo.trainer.policy_update import loss_settings
from gspo.trainer.trained import TrainedScorer
from gspo.world import Alone

__all__ = ["check_loss", "main", "prepare_check", "to_batch"]


def to_batch(groups: Sequence[CheckGroup]) -> GroupBatch:
    """The groups as the models take them."""
    return GroupBatch.from_groups(
        [
            Group(
                Prompt(f"check:{number}", tuple(group.prompt), "", "check"),
                [_response(ids) for ids in group.responses],
                _response(group.teacher) if group.teacher else None,
            )
            for number, group in enumerate(groups)
        ],
        scored=False,
    )


def _response(token_ids: list[int]) -> Response:
    return Response(token_ids, [0.0] * len(token_ids), "", "length")


@torch.no_grad()
def prepare_check(policy: Policy, file: Path) -> dict[str, Any]:
    """Fills in old log-probabilities: the policy's, with noise."""
    groups = read_groups(file)
    for number, group in enumerate(groups):
        log_probs, _ = policy.log_probs(to_batch([group]))
        group.old_log_probs = [
            add_noise(row[: len(ids)].tolist(), seed=1000 * number + index)
            for index, (row, ids) in enumerate(zip(log_probs, group.responses, strict=True))
        ]
    write_groups(groups, file)
    return {"groups": len(groups)}


def check_loss(run: TrainRun, groups: Sequence[CheckGroup]) -> dict[str, float]:
    """`loss` and `grad_norm` of the packed policy and GSPO's loss on given responses.

    With a discriminator also its `d_loss` and `d_grad_norm`.
    """
    batch, policy, section = to_batch(groups), run.actor.policy, run.config.actor_rollout_ref.actor
    mask = batch["response_mask"]

    def padded(rows: list[list[float]]) -> Tensor:
        return torch.tensor([row + [0.0] * (mask.shape[1] - len(row)) for row in rows])

    log_prob, _ = policy.log_probs(batch)
    advantages = torch.tensor([value for group in groups for value in group.advantages])
    loss, _ = compute_policy_loss_gspo(
        old_log_prob=padded([row for group in groups for row in group.old_log_probs]),
        log_prob=log_prob,
        advantages=advantages[:, None] * mask,
        response_mask=mask,
        loss_agg_mode=section.loss_agg_mode or "",
        config=loss_settings(section, counted(mask, Alone())),
    )
    figures = {"loss": float(loss.detach()), "grad_norm": gradient_norm(policy.model, loss)}
    model = run.parts.get("critic")
    return figures | _check_discriminator(model, batch) if isinstance(model, TrainedScorer) else figures


def _check_discriminator(critic: TrainedScorer, batch: GroupBatch) -> dict[str, float]:
    set_head(critic.module["head"])  # type: ignore[index]
    student, teacher = critic.scorer.compare(batch)
    ones = torch.ones(len(student), 1)
    loss, _ = compute_discriminator_loss(student[:, None], teacher[batch.group_index, None], ones, ones)
    return {"d_loss": float(loss.detach()), "d_grad_norm": gradient_norm(critic.module, loss)}


def step(run: TrainRun) -> dict[str, Any]:
    """One step's figures."""
    done = run_step(run)
    return {
        "seconds": done.seconds,
        "phases": done.phases,
        "completion_tokens": done.completion_tokens,
        "peak_memory_mb": peak_memory_mb(),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description="Serve this project's steps.", parents=[shared_options()])
    parser.add_argument("--workload", choices=sorted(WORKLOADS), required=True)
    options = parser.parse_args(arguments)
    workload = WORKLOADS[options.workload]
    with Replies.open() as replies, open_workload(workload, options.work, options.threads, options.further) as run:
        serve(
            {
                "step": lambda _: step(run),
                "prepare-check": lambda file: prepare_check(run.actor.policy, Path(file)),
                "check": lambda file: check_loss(run, read_groups(Path(file))),
            },
            replies,
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
