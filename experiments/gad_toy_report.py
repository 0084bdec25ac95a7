"""What the toy experiment of GAD found: figures of each run, the table, the numbers as JSON, the figure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["Outcome", "write_report"]

Array = np.ndarray[Any, np.dtype[Any]]
_FIRST_BUMP = slice(0, 5)  # classes 0..4 belong to the large bump, 5..9 to the small one
_NARROW = 1.5  # a student with a smaller s sits on one bump (0.8 wide); one that covers both has about 2.8
_NOTE = (
    "Mean over runs (least to greatest). Time on one bump: share of the last quarter of the steps with s under 1.5. "
    "Mass: of the student at the end, on the classes of the large bump. KL in nats, T the teacher and S the student."
)


@dataclass(frozen=True)
class Outcome:
    """Where the runs of one variant ended. Every list has one entry a run.

    Attributes:
        name: the variant.
        starts: mu and s at the start.
        seeds: of the draws.
        mu, s: the student's parameters at the end.
        on_one: share of the last quarter of the steps in which the student was narrow enough to sit on one bump.
        large_mass: the student's mass on the classes of the large bump.
        forward_kl: KL(teacher, student) in nats: large where the student misses what the teacher does.
        reverse_kl: KL(student, teacher): large where the student does what the teacher does not.
        student: the students' probabilities, (runs, classes).
        teacher: the teacher's, (classes,).
        scores: the discriminator's scores, mean 0 in each run; None without one.
        trace: mu and s every `trace_every` steps, (points, runs, 2).
        trace_every: steps between two points.
    """

    name: str
    starts: list[tuple[float, float]]
    seeds: list[int]
    mu: list[float]
    s: list[float]
    on_one: list[float]
    large_mass: list[float]
    forward_kl: list[float]
    reverse_kl: list[float]
    student: Array
    teacher: Array
    scores: Array | None
    trace: Array
    trace_every: int

    @classmethod
    def of(
        cls,
        name: str,
        *,
        starts: Sequence[tuple[float, float]],
        seeds: Sequence[int],
        trace: Array,
        trace_every: int,
        student: Array,
        teacher: Array,
        scores: Array | None,
    ) -> Outcome:
        """Works the figures out; `trace` ends with the final parameters."""
        spread = np.abs(trace[:, :, 1])
        safe = np.maximum(student, 1e-300)  # a very narrow student underflows to 0 far from its mean
        return cls(
            name,
            list(starts),
            list(seeds),
            mu=trace[-1, :, 0].tolist(),
            s=spread[-1].tolist(),
            on_one=(spread[-(len(spread) // 4) :] < _NARROW).mean(0).tolist(),
            large_mass=student[:, _FIRST_BUMP].sum(1).tolist(),
            forward_kl=(teacher * (np.log(teacher) - np.log(safe))).sum(1).tolist(),
            reverse_kl=(safe * (np.log(safe) - np.log(teacher))).sum(1).tolist(),
            student=student,
            teacher=teacher,
            scores=None if scores is None else scores - scores.mean(1, keepdims=True),
            trace=trace,
            trace_every=trace_every,
        )

    def line(self) -> str:
        """One line for the terminal."""
        return f"{self.name:24} mu {_span(self.mu)}, s {_span(self.s)}, on one bump {_span(self.on_one)}"


def write_report(outcomes: Sequence[Outcome], folder: Path) -> list[Path]:
    """Writes results.json, table.md and figure.png and returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    numbers, table, figure = (folder / name for name in ("results.json", "table.md", "figure.png"))
    numbers.write_text(json.dumps([_plain(outcome) for outcome in outcomes], indent=1) + "\n", encoding="utf-8")
    table.write_text(_table(outcomes), encoding="utf-8")
    _draw(outcomes, figure)
    return [numbers, table, figure]


def _plain(outcome: Outcome) -> dict[str, Any]:
    """The figures, rounded to five digits; the trace stays in the figure."""
    fields = {key: value for key, value in asdict(outcome).items() if key not in ("trace", "trace_every")}
    return {key: _rounded(value) for key, value in fields.items()}


def _rounded(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return _rounded(value.tolist())
    if isinstance(value, (list, tuple)):
        return [_rounded(entry) for entry in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value


def _span(values: Sequence[float]) -> str:
    """The mean over the runs, and the least and the greatest."""
    return f"{np.mean(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def _table(outcomes: Sequence[Outcome]) -> str:
    columns = ["variant", "runs", "mu", "s", "time on one bump", "mass on 0-4", "KL(T, S)", "KL(S, T)"]
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for outcome in outcomes:
        spans = (outcome.mu, outcome.s, outcome.on_one, outcome.large_mass, outcome.forward_kl, outcome.reverse_kl)
        lines.append("| " + " | ".join([outcome.name, str(len(outcome.mu)), *map(_span, spans)]) + " |")
    return "\n".join(lines) + "\n\n" + _NOTE + "\n"


def _draw(outcomes: Sequence[Outcome], path: Path) -> None:
    """One column a variant: the students over the teacher above, mu and s over the steps below."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(3, len(outcomes), figsize=(2.4 * len(outcomes), 6.5), squeeze=False)
    for column, outcome in enumerate(outcomes):
        classes = np.arange(len(outcome.teacher))
        top, middle, bottom = axes[:, column]
        top.bar(classes, outcome.teacher, color="0.8", label="teacher")
        top.plot(classes, outcome.student.T, color="C0", alpha=0.5, linewidth=1)
        top.set(ylim=(0, 1.02), xlabel="class", xticks=classes)
        top.set_title(outcome.name, fontsize=10)
        steps = np.arange(len(outcome.trace)) * outcome.trace_every
        middle.plot(steps, outcome.trace[:, :, 0], color="C0", alpha=0.5, linewidth=1)
        middle.set(ylim=(-1, 10), xlabel="step")
        bottom.plot(steps, np.abs(outcome.trace[:, :, 1]), color="C1", alpha=0.5, linewidth=1)
        bottom.set(ylim=(0.01, 10), yscale="log", xlabel="step")
    for axis, label in zip(axes[:, 0], ("probability", "mu", "s"), strict=True):
        axis.set_ylabel(label)
    axes[0, 0].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=80, metadata={"Software": None})
    pyplot.close(figure)
