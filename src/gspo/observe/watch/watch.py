"""The warnings of a run, each told once: a pure function of the rows of its metrics."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gspo.observe.watch.facts import Facts
from gspo.observe.watch.history import History, Row
from gspo.observe.watch.rule import Rule
from gspo.observe.watch.table import RULES

__all__ = ["Told", "Watch"]

_TRAINED = "training/global_step"  # a row of figures without it is of a validation alone


@dataclass(frozen=True)
class Told:
    """A warning that was told.

    Attributes:
        rule: which.
        step: after which step.
        text: the line.
    """

    rule: Rule
    step: int
    text: str


class Watch:
    """Looks at a run's metrics, step by step, and says what is wrong with it as soon as it can be seen.

    Args:
        facts: the settings in force.
        rules: what can be wrong.

    Attributes:
        told: what was told so far, by the rule's name, in order.
    """

    def __init__(self, facts: Facts, rules: Sequence[Rule] = RULES) -> None:
        self._facts, self._rules = facts, rules
        self._history = History()
        self.told: dict[str, Told] = {}

    def see(self, step: int, row: Row) -> list[str]:
        """Takes up the metrics of a training step, and returns the warnings that have become due, a line each."""
        self._history.add(step, row)
        holding = {rule.name: text for rule in self._rules if (text := rule.seen(self._history, self._facts))}
        explained = holding.keys() | self.told.keys()
        due = [
            Told(rule, step, f"warning, step {step}: {holding[rule.name]}")
            for rule in self._rules
            if rule.name in holding
            and rule.name not in self.told
            and not holding.keys() & set(rule.explained_by)
            and not explained & set(rule.after)
        ]
        self.told |= {told.rule.name: told for told in due}
        self._history.told |= {told.rule.name: step for told in due}
        return [told.text for told in due]

    def replay(self, records: Iterable[Mapping[str, Any]], until: int) -> None:
        """Takes up what a resumed run has logged: its warnings count as told.

        Args:
            records: the lines of `metrics.jsonl`.
            until: the step that the run goes on from.
        """
        for record in records:
            if _TRAINED in record and record["step"] <= until:
                figures = {name: float("nan") if value is None else float(value) for name, value in record.items()}
                self.see(record["step"], figures)

    def summary(self) -> str:
        """All that was told, in one line; empty where nothing was."""
        if not self.told:
            return ""
        parts = [f"{told.rule.name} (step {told.step}: {', '.join(told.rule.keys)})" for told in self.told.values()]
        return f"warnings of this run, with the settings to change: {'; '.join(parts)}"
