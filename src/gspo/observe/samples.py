"""Sampled responses in samples.jsonl: what the model wrote, and what it got for it, at every step."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TextIO

from gspo.groups import Group, Prompt, Response
from gspo.observe.jsonl import open_jsonl, write_line

__all__ = ["SampleWriter"]


class SampleWriter:
    """Writes responses to `samples.jsonl` of a run folder, one line a response."""

    def __init__(
        self,
        run_dir: Path,
        limit: int = 16,
        resume_step: int | None = None,
        *,
        amends: bool = False,
        silent: bool = False,
    ) -> None:
        """Opens the file when the first responses come: a resume that is refused leaves it as it was.

        Args:
            run_dir: the run's folder.
            limit: the most responses written per call of `write`; the first ones, in the groups' order.
            resume_step: the step that the run goes on from; lines of later steps are removed. None: a new run.
            amends: remove nothing (a validation alone).
            silent: write nothing at all (a rank whose samples another one writes).

        Raises:
            ValueError: the limit is negative.
        """
        if limit < 0:
            raise ValueError(f"the limit of samples per step is {limit}; give 0 (none) or more")
        self._limit, self._silent = limit, silent
        self._path = Path(run_dir) / "samples.jsonl"
        self._resume_step = sys.maxsize if amends else resume_step
        self._file: TextIO | None = None

    def write(
        self,
        groups: Sequence[Group],
        step: int,
        split: Literal["train", "val"] = "train",
        advantages: Sequence[float | None] | None = None,
    ) -> None:
        """Writes the first responses of these groups.

        Args:
            groups: the groups of one step.
            step: the step that sampled them.
            split: training prompts or held-out ones.
            advantages: one for each response of `groups`, side by side, None for one that took no part; None where
                there are none.

        Raises:
            ValueError: the advantages are not one for each response.
        """
        pairs = [(group, response) for group in groups for response in group.responses]
        if advantages is not None and len(advantages) != len(pairs):
            raise ValueError(f"{len(advantages)} advantages for {len(pairs)} responses; give one for each response")
        if self._silent or not pairs:
            return
        if self._file is None:
            self._file = open_jsonl(self._path, self._resume_step)
        for row, (group, response) in enumerate(pairs[: self._limit]):
            record = {"step": step, "split": split, **_describe(group.prompt, response)}
            if group.teacher is not None:
                record["teacher"] = group.teacher.text
            if advantages is not None:
                record["advantage"] = advantages[row]
            write_line(self._file, record)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


def _describe(prompt: Prompt, response: Response) -> dict[str, Any]:
    """One response as a record; an abstention or an error of the scorer is written, as the reward alone cannot."""
    record: dict[str, Any] = {
        "uid": prompt.uid,
        "data_source": prompt.data_source,
        "prompt": prompt.text,
        "response": response.text,
        "reward": response.reward,
        "finish_reason": response.finish_reason,
        "length": len(response),
    }
    outcome = response.outcome
    if outcome is not None:
        record["extras"] = dict(outcome.extras)
        record |= {key: text for key in ("abstained", "error") if (text := getattr(outcome, key)) is not None}
    return record
