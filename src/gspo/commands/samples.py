"""`gspo samples`: what a run's model wrote, group by group: the prompt, its responses, their rewards and advantages."""

from __future__ import annotations

import argparse
import json
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from gspo.config.paths import expanded
from gspo.observe.jsonl import readable_jsonl
from gspo.observe.report.folder import no_run_in

__all__ = ["groups_of", "samples_command"]

_WIDEST = 110  # of a line of text: longer ones are hard to read
_PLAIN_WIDTH = 100  # where the output is no terminal
_MOST_LINES = 12  # of one text, unless all of it is asked for
_INDENT = 4

Sample = dict[str, Any]


def samples_command(args: argparse.Namespace) -> int:
    """`gspo samples` with its parsed arguments."""
    folder = expanded(args.folder, "RUN")
    if args.groups < 0:
        raise ValueError(f"--groups {args.groups}: give how many prompts to show, or 0 for all of them")
    samples = _read(folder)
    step = _step(folder, samples, args.split, args.step)
    groups = groups_of([s for s in samples if s["step"] == step and s.get("split") in _splits(args.split)])
    shown = groups if args.groups == 0 else groups[: args.groups]
    if args.json:
        for group in shown:
            print(json.dumps(_as_record(group), ensure_ascii=False))
        return 0
    console = Console(highlight=False)
    width = min(_WIDEST, console.width if console.is_terminal else _PLAIN_WIDTH)
    console = Console(highlight=False, width=width)
    steps = sorted({sample["step"] for sample in samples})
    console.print(f"step {step} of {folder} (samples of steps {steps[0]} to {steps[-1]})", soft_wrap=True)
    for group in shown:
        _print(console, group, width, whole=args.full)
    if len(shown) < len(groups):
        console.print(f"\n{len(groups) - len(shown)} more groups of this step: --groups 0 shows all of them")
    return 0


def groups_of(samples: Sequence[Sample]) -> list[list[Sample]]:
    """The samples of one step by prompt, in the order in which they were written."""
    groups: dict[tuple[str, str], list[Sample]] = {}
    for sample in samples:
        key = (str(sample.get("split")), str(sample.get("uid", sample.get("prompt"))))
        groups.setdefault(key, []).append(sample)
    return list(groups.values())


def _splits(asked: str | None) -> tuple[str, ...]:
    return ("val", "train") if asked is None else (asked,)


def _read(folder: Path) -> list[Sample]:
    """The run's samples.

    Raises:
        ValueError: there are none.
    """
    file = folder / "samples.jsonl"
    if not file.is_file():
        if not (folder / "metrics.jsonl").is_file():
            raise ValueError(no_run_in(folder))
        raise ValueError(f"{folder} has no samples.jsonl: its run has not written samples yet")
    samples, faults = readable_jsonl(file)
    if not samples:
        why = f" that can be read ({faults[0]})" if faults else ""
        raise ValueError(f"{file} has no samples{why}: a run writes them with its first step")
    return samples


def _step(folder: Path, samples: Sequence[Sample], split: str | None, asked: int | None) -> int:
    """The step to show: the one that is asked for, or the last one.

    Raises:
        ValueError: it has no samples.
    """
    steps = sorted({int(sample["step"]) for sample in samples if sample.get("split") in _splits(split)})
    kind = "" if split is None else f" of split {split}"
    if not steps:
        raise ValueError(f"{folder} has no samples{kind}: leave --split out")
    if asked is None:
        return steps[-1]
    if asked not in steps:
        near = sorted(sorted(steps, key=lambda step: abs(step - asked))[:4])
        raise ValueError(
            f"--step {asked}: {folder} has no samples{kind} of that step; of {', '.join(map(str, near))} it has "
            f"({len(steps)} steps from {steps[0]} to {steps[-1]})"
        )
    return asked


def _as_record(group: Sequence[Sample]) -> dict[str, Any]:
    first = group[0]
    shared = ("step", "split", "uid", "data_source", "prompt", "teacher")
    responses = [{key: value for key, value in sample.items() if key not in shared} for sample in group]
    return {**{key: first[key] for key in shared if key in first}, "responses": responses}


def _print(console: Console, group: Sequence[Sample], width: int, *, whole: bool) -> None:
    first = group[0]
    console.print()
    console.rule(Text(f"{first.get('split', '')} {first.get('uid', '')} {first.get('data_source', '')}"), align="left")
    console.print(_block(str(first.get("prompt", "")), width, whole))
    if "teacher" in first:
        console.print(Text("teacher", style="magenta"))
        console.print(_block(str(first["teacher"]), width, whole))
    for number, sample in enumerate(group):
        console.print(_heading(number, sample))
        console.print(_block(str(sample.get("response", "")), width, whole))


def _heading(number: int, sample: Sample) -> Text:
    """One line on a response: reward, advantage, length, and what went wrong."""
    reward, advantage = sample.get("reward"), sample.get("advantage")
    heading = Text(f"response {number}", style="bold")
    good = isinstance(reward, (int, float)) and reward > 0
    heading.append(f"  reward {_figure(reward)}", style="green" if good else "yellow")
    if "advantage" in sample:
        heading.append(f"  advantage {_figure(advantage, sign='+')}", style="cyan")
    heading.append(f"  {sample.get('length', '?')} tokens", style="dim")
    if sample.get("finish_reason") == "length":
        heading.append("  cut at the limit", style="red")
    if trouble := sample.get("error") or sample.get("abstained"):
        heading.append(f"  {trouble}", style="red")
    return heading


def _figure(value: Any, sign: str = "") -> str:
    return format(value, f"{sign}.3g") if isinstance(value, (int, float)) else "none"


def _block(text: str, width: int, whole: bool) -> Text:
    """A text within the width, indented, and cut to a few lines unless the whole is asked for."""
    lines = [
        part
        for line in text.splitlines() or [""]
        for part in textwrap.wrap(line, width - _INDENT, drop_whitespace=False, replace_whitespace=False) or [""]
    ]
    if not whole and len(lines) > _MOST_LINES:
        head, tail = lines[: _MOST_LINES - 4], lines[-3:]
        lines = [*head, f"... {len(lines) - len(head) - len(tail)} lines (--full shows them)", *tail]
    return Text("\n".join(" " * _INDENT + line for line in lines))
