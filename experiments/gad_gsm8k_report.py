"""What GAD on GSM8K found: the table of three students, samples of them, the run's curves as figure and numbers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gspo.evaluation.overlap import overlap
from gspo.evaluation.statistics import bootstrap_interval
from gspo.observe.jsonl import read_jsonl

__all__ = ["figures", "markdown_table", "write_report"]

Record = dict[str, Any]
_NUM_SAMPLES = 3
_ACCURACY = "val-core/openai/gsm8k/acc/mean@1"
# Of each panel: its title, and for each curve the metric in training, the one on held-out pairs, and its name.
_PANELS: dict[str, list[tuple[str | None, str | None, str]]] = {
    "the discriminator's accuracy": [
        ("critic/d_acc", "val-aux/gad/d_acc", "discriminator"),
        ("critic/length_acc", "val-aux/gad/length_acc", "length alone"),
        ("critic/eos_acc", "val-aux/gad/eos_acc", "end token alone"),
    ],
    "teacher's score less the student's": [("critic/margin", "val-aux/gad/margin", "margin")],
    "scores": [
        ("critic/teacher_value_mean", "val-aux/gad/teacher_value_mean", "teacher"),
        ("critic/student_value_mean", "val-aux/gad/student_value_mean", "student"),
    ],
    "tokens of a response": [
        ("response_length/mean", "val-aux/gad/response_length", "student"),
        ("teacher_length/mean", "val-aux/gad/teacher_length", "teacher"),
    ],
    "overlap with the teacher's text": [
        (None, "val-aux/gad/rouge_l", "ROUGE-L"),
        (None, "val-aux/gad/ngram_1_f1", "1-gram F1"),
        (None, "val-aux/gad/ngram_2_f1", "2-gram F1"),
        (None, "val-aux/gad/ngram_4_f1", "4-gram F1"),
    ],
    "right answers (never rewarded)": [(None, _ACCURACY, "accuracy")],
}
# Columns of the table: name, and how a figure is printed.
_COLUMNS = {
    "right answers": "{:.1%}",
    "ROUGE-L": "{:.3f}",
    "1-gram F1": "{:.3f}",
    "2-gram F1": "{:.3f}",
    "4-gram F1": "{:.3f}",
    "tokens": "{:.1f}",
    "cut": "{:.1%}",
}


def write_report(
    folder: Path,
    metrics: Path,
    stages: Mapping[str, int],
    answers: Mapping[str, Sequence[Record]],
    rows: Sequence[Record],
) -> str:
    """Writes table.md, samples.md, results.json and curves.png; returns the table.

    Args:
        folder: where they go.
        metrics: the run's metrics.jsonl.
        stages: name to the step after which a stage begins, but for the first.
        answers: student to its records of `gspo eval`'s responses.jsonl.
        rows: the held-out rows, in the order of their uids.
    """
    folder.mkdir(parents=True, exist_ok=True)
    table = markdown_table({name: figures(records, rows) for name, records in answers.items()})
    (folder / "table.md").write_text(table, encoding="utf-8")
    (folder / "samples.md").write_text(_samples(answers, rows), encoding="utf-8")
    run = read_jsonl(metrics)
    known = {key for panel in _PANELS.values() for train, held_out, _ in panel for key in (train, held_out) if key}
    curves = [{key: value for key, value in line.items() if key == "step" or key in known} for line in run]
    (folder / "results.json").write_text(json.dumps(curves, indent=1) + "\n", encoding="utf-8")
    _draw(run, stages, folder / "curves.png")
    return table


def figures(records: Sequence[Record], rows: Sequence[Record]) -> dict[str, tuple[float, tuple[float, float]]]:
    """Means over the held-out rows and their 95 % bootstrap intervals; a row's responses are averaged first.

    Where a response has too few words for an overlap, that is 0.
    """
    of_row: dict[int, list[dict[str, float]]] = {}
    for record in records:
        number = _row_number(record)
        shared = overlap(record["response"], rows[number]["teacher_response"])
        of_row.setdefault(number, []).append(
            {
                "right answers": float(record["extras"]["acc"]),
                "ROUGE-L": shared.get("rouge_l", 0.0),
                **{f"{n}-gram F1": shared.get(f"ngram_{n}_f1", 0.0) for n in (1, 2, 4)},
                "tokens": float(record["length"]),
                "cut": float(record["finish_reason"] == "length"),
            }
        )
    found = {}
    for name in _COLUMNS:
        values = [sum(one[name] for one in ones) / len(ones) for ones in of_row.values()]
        found[name] = (sum(values) / len(values), bootstrap_interval(values))
    return found


def markdown_table(students: Mapping[str, Mapping[str, tuple[float, tuple[float, float]]]]) -> str:
    """A row a student, each figure with its interval."""
    lines = ["| student | " + " | ".join(_COLUMNS) + " |", "|---" + "|---:" * len(_COLUMNS) + "|"]
    for name, found in students.items():
        cells = []
        for column, form in _COLUMNS.items():
            mean, (low, high) = found[column]
            cells.append(f"{form.format(mean)} ({form.format(low)} to {form.format(high)})")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _row_number(record: Record) -> int:
    return int(record["uid"].rpartition(":")[2])


def _samples(answers: Mapping[str, Sequence[Record]], rows: Sequence[Record]) -> str:
    """The first held-out questions, the teacher's text and the first response of every student."""
    parts = ["# Responses to the first held-out questions\n\nThe first of two samples of each student, at 0.8.\n"]
    for number in range(min(_NUM_SAMPLES, len(rows))):
        texts = {"teacher": rows[number]["teacher_response"]}
        for name, records in answers.items():
            first = next(record for record in records if _row_number(record) == number)
            texts[name] = first["response"] + (" [cut]" if first["finish_reason"] == "length" else "")
        parts.append(f"## {rows[number]['extra_info']['question']}\n")
        parts += [f"{name}:\n\n{_quoted(text)}\n" for name, text in texts.items()]
    return "\n".join(parts)


def _quoted(text: str) -> str:
    return "\n".join(f"    {line}".rstrip() for line in text.strip().splitlines())


def _draw(run: Sequence[Record], stages: Mapping[str, int], path: Path) -> None:
    """A panel a subject: training pairs as lines, held-out ones as lines with dots, stages as dotted uprights."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(2, 3, figsize=(14, 7), layout="constrained")
    for axes, (title, curves) in zip(panels.flat, _PANELS.items(), strict=True):
        for number, (train, held_out, name) in enumerate(curves):
            for key, style in ((train, {"alpha": 0.5}), (held_out, {"marker": "o", "markersize": 4})):
                points = [(line["step"], line[key]) for line in run if key and line.get(key) is not None]
                if points:
                    label = name if key == (held_out or train) else None
                    axes.plot(*zip(*points, strict=True), color=f"C{number}", label=label, **style)
        for name, after in stages.items():
            axes.axvline(after + 0.5, color="grey", linestyle=":", linewidth=1)
            axes.annotate(name, (after + 0.7, 0.01), xycoords=("data", "axes fraction"), fontsize=7, color="grey")
        axes.set(title=title, xlabel="step")
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=90)
