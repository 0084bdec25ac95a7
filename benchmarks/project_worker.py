"""This project's step on a workload, step by step on command: the other side of `trl_worker.py`.

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
from project import open_workload, run_step
from serving import Replies, serve
from step import shared_options
from torch import Tensor
from workloads import WORKLOADS

from gspo.algorithms import compute_policy_loss_gspo
from gspo.groups import Group, GroupBatch, Prompt, Response
from gspo.models import Policy
from gspo.trainer import Run
from gspo.trainer.stages import loss_settings

__all__ = ["check_loss", "main", "prepare_check", "to_batch"]


def to_batch(groups: Sequence[CheckGroup]) -> GroupBatch:
    """The groups as the models take them."""
    return GroupBatch.from_groups(
        [
            Group(
                Prompt(f"check:{number}", tuple(group.prompt), "", "check"),
                [Response(ids, [0.0] * len(ids), "", "length") for ids in group.responses],
            )
            for number, group in enumerate(groups)
        ],
        scored=False,
    )


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


def check_loss(run: Run, groups: Sequence[CheckGroup]) -> dict[str, float]:
    """`loss` and `grad_norm` of the packed policy and GSPO's loss on given responses."""
    batch, policy = to_batch(groups), run.actor.policy
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
        loss_agg_mode=run.config.actor_rollout_ref.actor.loss_agg_mode or "",
        config=loss_settings(run.config, batch),
    )
    loss.backward()
    gradients = [p.grad for p in policy.model.parameters() if p.grad is not None]
    norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(gradient) for gradient in gradients]))
    policy.model.zero_grad(set_to_none=True)
    return {"loss": float(loss.detach()), "grad_norm": float(norm)}


def step(run: Run) -> dict[str, Any]:
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
