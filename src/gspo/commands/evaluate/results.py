"""What an evaluation leaves: a table for a person, results.json and responses.jsonl."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from gspo import __version__
from gspo.evaluation.accuracy import Difference, SourceResult
from gspo.groups import Group
from gspo.observe.jsonl import write_line

__all__ = ["Evaluation", "print_differences", "print_results", "write_files"]


@dataclass(frozen=True)
class Evaluation:
    """One model's part.

    Attributes:
        model: its name on the command line.
        groups: all its responses, scored.
        results: their summary, one a data source.
        differences: to the first model, one a data source; empty for the first itself.
    """

    model: str
    groups: list[Group]
    results: list[SourceResult]
    differences: list[Difference]


def print_results(console: Console, evaluations: Sequence[Evaluation], n: int) -> None:
    """One row a model and data source; pass@k and maj@k only where there are several responses."""
    several = [f"pass@{n}", f"maj@{n}"] if n > 1 else []
    header = ["model", "data source", "prompts", "accuracy", "95 % interval", *several]
    rows = [
        [
            evaluation.model,
            result.data_source,
            str(result.num_prompts),
            _figure(result.accuracy, result.is_accuracy) + ("" if result.is_accuracy else " (score)"),
            _interval(result.interval, result.is_accuracy),
            *([_at_most(result.pass_at, n), _at_most(result.maj_at, n)] if several else []),
            f"{result.length:.1f}",
            _share(result.truncated),
            _share(result.unjudged),
        ]
        for evaluation in evaluations
        for result in evaluation.results
    ]
    _print(console, [*header, "mean length", "truncated", "unjudged"], rows, num_texts=2)


def print_differences(console: Console, evaluations: Sequence[Evaluation]) -> None:
    """One row a model but the first and data source."""
    first, *others = evaluations
    kinds = {result.data_source: result.is_accuracy for result in first.results}
    rows = [
        [
            f"{evaluation.model} - {first.model}",
            difference.data_source,
            str(difference.num_prompts),
            _figure(difference.difference, kinds.get(difference.data_source, True), sign="+"),
            _interval(difference.interval, kinds.get(difference.data_source, True), sign="+"),
        ]
        for evaluation in others
        for difference in evaluation.differences
    ]
    header = ["models", "data source", "paired prompts", "difference", "95 % interval"]
    _print(console, header, rows, num_texts=2)


def write_files(folder: Path, evaluations: Sequence[Evaluation], settings: Mapping[str, Any]) -> None:
    """Writes responses.jsonl and results.json; those of an earlier evaluation are replaced when the new ones are whole.

    Every line of responses.jsonl is one response. What is not a number (no interval, no judged response) is null.
    """
    draft = folder / "responses.jsonl.tmp"
    # What `backslashreplace` makes of a lone surrogate is JSON's own escape of it.
    with draft.open("w", encoding="utf-8", errors="backslashreplace", newline="\n") as file:
        for evaluation in evaluations:
            for record in _responses(evaluation):
                write_line(file, record)
    os.replace(draft, folder / "responses.jsonl")
    first = evaluations[0].model
    content = {
        "gspo": __version__,
        "settings": dict(settings),
        "results": [{"model": e.model, **_record(result)} for e in evaluations for result in e.results],
        "differences": [{"model": e.model, "to": first, **_record(d)} for e in evaluations for d in e.differences],
    }
    draft = folder / "results.json.tmp"
    draft.write_text(json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    os.replace(draft, folder / "results.json")


def _responses(evaluation: Evaluation) -> Iterable[dict[str, Any]]:
    for group in evaluation.groups:
        for number, response in enumerate(group.responses):
            outcome = response.outcome
            assert outcome is not None
            yield {
                "model": evaluation.model,
                "data_source": group.prompt.data_source,
                "uid": group.prompt.uid,
                "number": number,
                "prompt": group.prompt.text,
                "response": response.text,
                "reward": outcome.value,
                "extras": outcome.extras,
                "answer": outcome.answer,
                "abstained": outcome.abstained,
                "error": outcome.error,
                "finish_reason": response.finish_reason,
                "length": len(response),
            }


def _record(result: SourceResult | Difference) -> dict[str, Any]:
    def plain(value: Any) -> Any:
        if isinstance(value, tuple):
            return [plain(item) for item in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return {name: plain(value) for name, value in asdict(result).items()}


def _print(console: Console, header: Sequence[str], rows: Sequence[Sequence[str]], num_texts: int) -> None:
    """A table on a terminal; elsewhere plain aligned lines, however long. The first columns are texts."""
    if console.is_terminal:
        table = Table(header_style="bold")
        for column, name in enumerate(header):
            table.add_column(name, justify="left" if column < num_texts else "right", overflow="fold")
        for row in rows:
            table.add_row(*map(Text, row))
        console.print(table)
        return
    lines = [header, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    for line in lines:
        cells = [
            cell.ljust(width) if column < num_texts else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        console.print(Text("  ".join(cells).rstrip()), soft_wrap=True)


def _figure(value: float, is_share: bool, sign: str = "") -> str:
    """A share in per cent, or a plain number."""
    if not math.isfinite(value):
        return "-"
    return f"{100 * value:{sign}.1f} %" if is_share else f"{value:{sign}.3f}"


def _share(value: float) -> str:
    return _figure(value, True)


def _interval(bounds: tuple[float, float], is_share: bool, sign: str = "") -> str:
    low, high = (_figure(bound, is_share, sign).removesuffix(" %") for bound in bounds)
    return "-" if "-" in (low, high) else f"{low} to {high}"


def _at_most(values: Mapping[int, float], n: int) -> str:
    """The figure at n; at the largest k there is, which is then said, where some responses have no judgement."""
    if not values:
        return "-"
    k = max(values)
    return _share(values[k]) + ("" if k == n else f" (k={k})")
