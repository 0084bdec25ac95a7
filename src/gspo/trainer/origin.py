"""What a run began with besides its configuration, kept in its checkpoints: its day, its data, its number of threads.

Another day, another file name or another number of threads would change what a resumed run does without a setting that
differs. The day and the files' names belong to the run and are used again; what cannot be is said.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from gspo.checkpoint import Checkpoint, Part
from gspo.data import PromptDataset

__all__ = ["Day", "Origin", "as_named_before"]

_KEY = "origin"
_CALL = "strftime_now"  # what a chat template calls for the date


@dataclass(frozen=True)
class Day:
    """The moment that a run's chat template takes for now.

    Attributes:
        moment: None where the template does not ask.
        was_kept: whether it is that of the run which goes on.
        asked: `data.template_date`.
    """

    moment: datetime | None
    was_kept: bool = False
    asked: str | None = None

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase, found: Checkpoint | None, asked: str | None = None) -> Day:
        """The moment of the checkpoint that the run goes on from; of a new run, the one asked for or the present."""
        if _CALL not in str(tokenizer.chat_template):
            return cls(None, asked=asked)
        if kept := _kept(found).get("moment"):
            return cls(datetime.fromisoformat(kept), was_kept=True, asked=asked)
        return cls(datetime.fromisoformat(asked) if asked else datetime.now().replace(microsecond=0), asked=asked)

    def notices(self) -> Iterator[str]:
        """Which day the prompts have, said once at the start."""
        if self.moment is None:
            if self.asked:
                yield f"data.template_date={self.asked} has no effect: the chat template does not write the date"
            return
        day = f"{self.moment:%Y-%m-%d}"
        if self.asked in (None, day):
            when = "it began on" if self.was_kept else "of" if self.asked else "today:"
            repeat = "" if self.asked or self.was_kept else f"; data.template_date={day} gives it to another run"
            yield (
                f"the chat template writes the date: the prompts of this run have the day {when} {day}, also when it "
                f"goes on later{repeat}"
            )
        else:
            yield (
                f"the chat template writes the date: the run began with {day} and keeps it, whatever "
                "data.template_date says; another day is another run"
            )


class Origin(Part):
    """The part of a checkpoint that holds this, and what is to be said where it differs.

    Args:
        day: of the chat template.
        train, val: the prompts.
        device: where the run computes.
        found: the checkpoint that it goes on from.
    """

    def __init__(
        self, day: Day, train: PromptDataset, val: PromptDataset | None, device: str, found: Checkpoint | None
    ) -> None:
        self._state: dict[str, Any] = {
            "moment": day.moment.isoformat() if day.moment else None,
            "threads": torch.get_num_threads() if device == "cpu" else None,
            "train": _facts(train),
            "val": None if val is None else _facts(val),
        }
        self.notices = [*day.notices(), *self._differences(_kept(found))]

    def state(self, step: int) -> dict[str, Any]:
        """See `Stateful`."""
        del step
        return {_KEY: self._state}

    def _differences(self, kept: dict[str, Any]) -> Iterator[str]:
        threads = kept.get("threads")
        if threads is not None and self._state["threads"] not in (None, threads):
            yield (
                f"the run began with {threads} threads and goes on with {self._state['threads']}, which round sums in "
                f"another order: the last bits of its figures differ (trainer.num_threads={threads} keeps them)"
            )
        for name, key in (("train", "data.train_files"), ("val", "data.val_files")):
            before, now = kept.get(name), self._state[name]
            if before is None or now is None:
                continue
            if before["prompts"] != now["prompts"]:
                if name == "val":
                    yield f"the prompts of {key} are not those that the run began with: its validations compare less"
            elif before["answers"] != now["answers"]:
                yield (
                    f"the answers of {key} (ground truths, data sources, extra_info or teacher's texts) are not those "
                    "that the run began with: it goes on with the new ones. Put the file back if that is not wanted"
                )


def as_named_before(data: PromptDataset, name: str, found: Checkpoint | None) -> PromptDataset:
    """The same prompts, named as in the checkpoint: a renamed file is still the data that the run began with.

    Draws are keyed by a prompt's name. Prompts that differ are left as they are, for the order's own check.

    Args:
        data: the prompts.
        name: "train" or "val".
        found: the checkpoint that the run goes on from.
    """
    kept = _kept(found).get(name)
    labels = _labels(data)
    if kept is None or kept["labels"] == labels or kept["prompts"] != _prompts(data):
        return data
    if len(kept["labels"]) != len(labels):
        return data
    names = dict(zip(labels, kept["labels"], strict=True))
    prompts = []
    for prompt in data.prompts:
        label, _, row = prompt.uid.rpartition(":")
        prompts.append(replace(prompt, uid=f"{names[label]}:{row}"))
    return replace(data, prompts=tuple(prompts))


def _kept(found: Checkpoint | None) -> dict[str, Any]:
    """What a checkpoint holds; nothing where there is none, or one of an earlier release."""
    kept: dict[str, Any] = {} if found is None else found.state.get(_KEY, {})
    return kept


def _facts(data: PromptDataset) -> dict[str, Any]:
    answers = (
        [prompt.data_source, prompt.ground_truth, prompt.extra_info, prompt.teacher_response] for prompt in data.prompts
    )
    return {"labels": _labels(data), "prompts": _prompts(data), "answers": _digest(answers)}


def _labels(data: PromptDataset) -> list[str]:
    return list(dict.fromkeys(prompt.uid.rpartition(":")[0] for prompt in data.prompts))


def _prompts(data: PromptDataset) -> str:
    """Changes with any token, row or order of the prompts, and not with the files' names."""
    return _digest([prompt.uid.rpartition(":")[2], prompt.token_ids] for prompt in data.prompts)


def _digest(rows: Iterator[list[Any]]) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for row in rows:
        digest.update(json.dumps(row, default=str, sort_keys=True).encode() + b"\n")
    return digest.hexdigest()
