"""What a run left in its folder, for a program or a notebook to look at."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from gspo.config import Config, load_config
from gspo.config.paths import expanded
from gspo.observe.jsonl import read_jsonl
from gspo.observe.report.folder import no_run_in
from gspo.shell import gspo_command

if TYPE_CHECKING:
    from gspo.checkpoint import Checkpoint

__all__ = ["FinishedRun", "load_run"]


@dataclass(frozen=True)
class FinishedRun:
    """A run's folder, finished or not: each part is read when it is asked for first.

    Attributes:
        folder: the run's.
    """

    folder: Path

    @cached_property
    def config(self) -> Config:
        """The settings that it was trained with.

        Raises:
            ConfigError: the folder has no `config.yaml`, or it cannot be read.
        """
        return load_config(str(self.folder), "config", external=False)

    @cached_property
    def metrics(self) -> pa.Table:
        """A row for each logged step: `step`, and a column for each metric, null where it was not logged.

        `metrics.to_pandas()` gives a data frame.
        """
        records = read_jsonl(self.folder / "metrics.jsonl")
        names = dict.fromkeys(name for record in records for name in record if name != "step")
        columns: dict[str, Any] = {"step": pa.array([record["step"] for record in records], pa.int64())}
        for name in names:
            columns[name] = pa.array([record.get(name) for record in records])
        return pa.table(columns)

    @cached_property
    def samples(self) -> pa.Table:
        """A row for each response that was kept: prompt, response, reward, step, split; `extras` is JSON text."""
        file = self.folder / "samples.jsonl"
        records = read_jsonl(file) if file.exists() else []
        rows = [{**record, "extras": json.dumps(record.get("extras", {}))} for record in records]
        names = dict.fromkeys(name for row in rows for name in row)
        return pa.table({name: pa.array([row.get(name) for row in rows]) for name in names})

    @property
    def step(self) -> int:
        """The last logged step."""
        return int(self.metrics["step"][-1].as_py()) if len(self.metrics) else 0

    @property
    def report(self) -> Path:
        """The report's file; `gspo report FOLDER` writes it again."""
        return self.folder / "report.html"

    def model(self) -> Any:
        """The trained model, as transformers loads it.

        Raises:
            ValueError: the run has not exported one.
        """
        from transformers import AutoModelForCausalLM

        return AutoModelForCausalLM.from_pretrained(self._exported())

    def tokenizer(self) -> Any:
        """The trained model's tokenizer.

        Raises:
            ValueError: the run has not exported one.
        """
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(self._exported())

    def checkpoint(self, step: int | None = None) -> Checkpoint:
        """The checkpoint after a step, opened and verified; the newest one where no step is given.

        Raises:
            CheckpointError: there is none, or it is damaged.
        """
        from gspo.checkpoint import CheckpointError, find_latest, load_checkpoint

        if step is not None:
            return load_checkpoint(self.folder / "checkpoints" / f"global_step_{step}")
        latest = find_latest(self.folder)
        if latest.checkpoint is None:
            found = f" ({'; '.join(latest.warnings)})" if latest.warnings else ""
            raise CheckpointError(
                f"{self.folder} has no complete checkpoint{found}: let it finish, or set trainer.save_freq"
            )
        return latest.checkpoint

    def _exported(self) -> Path:
        folder = self.folder / "huggingface"
        if not (folder / "config.json").is_file():
            raise ValueError(
                f"{self.folder} has no exported model (huggingface/): `{gspo_command('export', self.folder)}` makes it "
                "of the newest checkpoint"
            )
        return folder

    def __repr__(self) -> str:
        return f"FinishedRun({str(self.folder)!r}, step {self.step})"

    def _repr_html_(self) -> str:
        """A notebook's view: the last value of each metric that a terminal would show."""
        shown = ("critic/score/mean", "train/loss", "val/loss", "actor/entropy", "response_length/mean")
        names = [n for n in self.metrics.column_names if n in shown or n.startswith("val-core/")]
        rows = []
        for name in names:
            values = [value for value in self.metrics[name].to_pylist() if value is not None]
            if values:
                rows.append(f"<tr><td>{escape(name)}</td><td>{values[0]:.4g}</td><td>{values[-1]:.4g}</td></tr>")
        head = f"<b>{escape(str(self.folder))}</b>, step {self.step}"
        return f"{head}<table><tr><th>metric</th><th>first</th><th>last</th></tr>{''.join(rows)}</table>"


def load_run(folder: Path | str) -> FinishedRun:
    """The run of a folder (`trainer.default_local_dir`): its config, metrics, samples, model and checkpoints.

    Raises:
        ValueError: there is no such folder, or it holds no run.
    """
    path = expanded(folder, "folder")
    if not (path / "metrics.jsonl").is_file():
        raise ValueError(no_run_in(path))
    return FinishedRun(path)
