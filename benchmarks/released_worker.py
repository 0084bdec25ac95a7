"""GAD's step as released, step by step on command: the other side of `project_worker.py` on workload W4.

Commands: `step`, `check FILE` (see `loss_check.py`).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from loss_check import CheckGroup, read_groups
from machine import peak_memory_mb
from project import gradient_norm, set_head
from released_gad import Padded, ReleasedGad
from serving import Replies, serve
from workloads import WORKLOADS

__all__ = ["check_losses", "main"]


def check_losses(released: ReleasedGad, groups: Sequence[CheckGroup]) -> dict[str, float]:
    """`loss` and `grad_norm` of the student, `d_loss` and `d_grad_norm` of the discriminator, on given responses."""
    prompts = [group.prompt for group in groups for _ in group.responses]
    responses = [response for group in groups for response in group.responses]
    teachers = [group.teacher for group in groups for _ in group.responses]
    batch, taught = Padded.of(prompts, responses), Padded.of(prompts, teachers)
    width = batch.response_mask.shape[1]
    rows = [row for group in groups for row in group.old_log_probs]
    old = torch.tensor([row + [0.0] * (width - len(row)) for row in rows])
    advantages = torch.tensor([value for group in groups for value in group.advantages])[:, None] * batch.response_mask
    set_head(released.discriminator["head"])
    figures: dict[str, float] = {}
    for prefix, module, loss_of in (
        ("", released.student, lambda: released.policy_loss(batch, old, advantages)),
        ("d_", released.discriminator, lambda: released.discriminator_loss(batch, taught)),
    ):
        loss = loss_of()
        figures |= {f"{prefix}loss": float(loss.detach()), f"{prefix}grad_norm": gradient_norm(module, loss)}
    return figures


def step(released: ReleasedGad) -> dict[str, Any]:
    """One step's figures."""
    start = time.perf_counter()
    groups = released.step()
    seconds = time.perf_counter() - start
    phases = {name.removeprefix("timing_s/"): spent for name, spent in released.clock.pop().items()}
    phases["other"] = seconds - sum(phases.values())
    tokens = sum(sum(group.responses) for group in groups)
    return {"seconds": seconds, "phases": phases, "completion_tokens": tokens, "peak_memory_mb": peak_memory_mb()}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description="Serve steps of GAD as released.")
    parser.add_argument("--workload", choices=sorted(WORKLOADS), default="W4")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    workload = WORKLOADS[options.workload]
    with Replies.open() as replies:
        released = ReleasedGad(workload, options.work / workload.name)
        handlers = {
            "step": lambda _: step(released),
            "check": lambda file: check_losses(released, read_groups(Path(file))),
        }
        serve(handlers, replies)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
