"""Where the metrics of a step go: metrics.jsonl, TensorBoard, Weights & Biases, the terminal, or all of them."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, TextIO

from gspo.observe.jsonl import open_jsonl, read_jsonl, write_jsonl, write_line
from gspo.observe.tensorboard import TensorboardLogger
from gspo.shell import install_command

__all__ = ["JsonlAmender", "JsonlLogger", "Logger", "TensorboardLogger", "Tracker", "WandbLogger", "make_tracker"]


class Logger(Protocol):
    """Takes the metrics of one step after another."""

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Records the metrics of `step`; each step comes once, in rising order."""

    def close(self) -> None:
        """Writes what is pending and lets go of files; called once."""


class JsonlLogger:
    """`metrics.jsonl` of a run folder: one line a step, written at once: `{"step": 1, "actor/pg_loss": ...}`.

    Nothing happens to the file before the first step is logged: a resume that is refused leaves it as it was.
    """

    def __init__(self, run_dir: Path, resume_step: int | None = None) -> None:
        """See `open_jsonl` for `resume_step`."""
        self._path = Path(run_dir) / "metrics.jsonl"
        self._resume_step = resume_step
        self._file: TextIO | None = None
        self._last = -1

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        if self._file is None:
            self._file = open_jsonl(self._path, self._resume_step)
            self._last = max((record["step"] for record in read_jsonl(self._path)), default=-1)
        if step <= self._last:
            raise ValueError(f"step {step} is logged after step {self._last}; log the metrics of a step together, once")
        self._last = step
        write_line(self._file, {"step": step, **{name: float(value) for name, value in metrics.items()}})

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


class JsonlAmender:
    """`metrics.jsonl` for figures of a step that may be there already: they are added to its line; none is removed."""

    def __init__(self, run_dir: Path) -> None:
        self._path = Path(run_dir) / "metrics.jsonl"

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        records = {record["step"]: record for record in read_jsonl(self._path)}
        added = {name: float(value) for name, value in metrics.items()}
        records[step] = {"step": step, **records.get(step, {}), **added}
        write_jsonl(self._path, [records[at] for at in sorted(records)])

    def close(self) -> None:
        """Nothing is open."""


class WandbLogger:
    """Weights & Biases, an optional extra. A resumed run goes on under its own id, which `wandb_id.txt` keeps.

    The service ignores a step that it already has; the same step done again has the same figures.
    """

    def __init__(
        self,
        run_dir: Path,
        project: str,
        experiment: str,
        config: Mapping[str, Any],
        resume_step: int | None = None,
    ) -> None:
        """Starts or continues the run.

        Raises:
            ValueError: wandb is not installed.
        """
        try:
            import wandb
        except ImportError as error:
            fix = f"install it by `{install_command('wandb')}`, or take wandb out of trainer.logger"
            raise ValueError(f"trainer.logger names wandb, which is not installed; {fix}") from error
        id_file = Path(run_dir) / "wandb_id.txt"
        if resume_step is None or not id_file.exists():
            id_file.parent.mkdir(parents=True, exist_ok=True)
            id_file.write_text(secrets.token_hex(8), encoding="utf-8")
        self._files = str(Path(run_dir) / "wandb")
        with _naming(self._files):
            self._run = wandb.init(
                project=project,
                name=experiment,
                config=dict(config),
                dir=str(run_dir),
                id=id_file.read_text(encoding="utf-8").strip(),
                resume="allow",
            )

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """See `Logger`.

        Raises:
            OSError: the disk does not take its files; names their folder.
        """
        with _naming(self._files):
            self._run.log(dict(metrics), step=step)

    def close(self) -> None:
        """See `Logger`."""
        with _naming(self._files):
            self._run.finish()


@contextmanager
def _naming(files: str) -> Iterator[None]:
    """Within it what a system's error lacks, the name of the files, is added."""
    try:
        yield
    except OSError as error:
        if error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror or str(error), files) from error


class Tracker:
    """Hands the metrics of each step to several loggers; a context manager that closes them all."""

    def __init__(self, loggers: Sequence[Logger]) -> None:
        self.loggers = list(loggers)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        for logger in self.loggers:
            logger.log(metrics, step)

    def close(self) -> None:
        """Closes every logger, also where closing another one fails; the failure is raised at the end."""
        with ExitStack() as stack:
            for logger in self.loggers:
                stack.callback(logger.close)

    def __enter__(self) -> Tracker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def make_tracker(
    names: Sequence[str],
    run_dir: Path,
    project: str,
    experiment: str,
    config: Mapping[str, Any],
    resume_step: int | None = None,
    console: Logger | None = None,
    *,
    amends: bool = False,
) -> Tracker:
    """The tracker of a run.

    `metrics.jsonl` is written whether named or not: the report is made from it.

    Args:
        names: `trainer.logger`: any of console, jsonl, tensorboard, wandb.
        run_dir: the run's folder.
        project: `trainer.project_name`.
        experiment: `trainer.experiment_name`.
        config: the resolved config as plain dictionaries.
        resume_step: the step that the run goes on from; None for a new run.
        console: the terminal view, used where "console" is named and it is given (rank 0 has one).
        amends: whether figures are added to steps that are logged already (a validation alone), and none is removed.

    Raises:
        ValueError: a name is unknown, or its package is not installed.
    """
    run_dir = Path(run_dir)
    makers: dict[str, Callable[[], Logger | None]] = {
        "console": lambda: console,
        "jsonl": lambda: JsonlAmender(run_dir) if amends else JsonlLogger(run_dir, resume_step),
        "tensorboard": lambda: TensorboardLogger(run_dir, resume_step, amends=amends),
        "wandb": lambda: WandbLogger(run_dir, project, experiment, config, resume_step),
    }
    for name in names:
        if name not in makers:
            raise ValueError(f"trainer.logger names {name!r}, which is unknown; the known ones are {', '.join(makers)}")
    loggers: list[Logger] = []
    with ExitStack() as undo:
        # metrics.jsonl comes last: a logger that cannot be made must not have emptied an older run's figures.
        for name in [*dict.fromkeys(name for name in names if name != "jsonl"), "jsonl"]:
            if (logger := makers[name]()) is not None:
                loggers.append(logger)
                undo.callback(logger.close)
        undo.pop_all()
    return Tracker(loggers)
