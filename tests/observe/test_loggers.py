"""Loggers: what stands in their files, after a resume too, and what the tracker does with several."""

import errno
import json
import math
import os
import sys
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gspo.observe.loggers import JsonlLogger, TensorboardLogger, Tracker, make_tracker


class MemoryLogger:
    def __init__(self, broken: bool = False) -> None:
        self.lines: list[tuple[int, dict[str, float]]] = []
        self.closed, self.broken = False, broken

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        self.lines.append((step, dict(metrics)))

    def close(self) -> None:
        self.closed = True
        if self.broken:
            raise OSError("disk full")


def lines(run_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def test_jsonl_is_on_disk_at_once(tmp_path: Path) -> None:
    logger = JsonlLogger(tmp_path)
    logger.log({"a": 1, "b": math.nan}, 1)
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1, "a": 1.0, "b": null}\n'
    logger.close()


def test_jsonl_has_each_step_once_after_resume(tmp_path: Path) -> None:
    for resume, steps, value in ((None, range(5), 0.0), (2, range(3, 6), 1.0)):
        logger = JsonlLogger(tmp_path, resume)
        for step in steps:
            logger.log({"a": value}, step)
        logger.close()
    assert [(line["step"], line["a"]) for line in lines(tmp_path)] == [(0, 0), (1, 0), (2, 0), (3, 1), (4, 1), (5, 1)]


def test_jsonl_refuses_a_step_twice(tmp_path: Path) -> None:
    logger = JsonlLogger(tmp_path)
    logger.log({"a": 1.0}, 3)
    with pytest.raises(ValueError, match="step 3 is logged after step 3; log the metrics of a step together, once"):
        logger.log({"b": 1.0}, 3)
    logger.close()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_hides_the_steps_done_again(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for resume, steps, value in ((None, range(1, 5), 0.0), (2, range(3, 6), 1.0)):
        logger = TensorboardLogger(tmp_path, resume)
        for step in steps:
            logger.log({"actor/entropy": value}, step)
        logger.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("actor/entropy")] == [(1, 0), (2, 0), (3, 1), (4, 1), (5, 1)]


def test_tracker_hands_on_and_closes_all(tmp_path: Path) -> None:
    first, second, third = MemoryLogger(), MemoryLogger(broken=True), MemoryLogger()
    with pytest.raises(OSError, match="disk full"), Tracker([first, second, third]) as tracker:
        tracker.log({"a": 1.0}, 1)
    assert first.lines == second.lines == third.lines == [(1, {"a": 1.0})]
    assert first.closed
    assert third.closed
    assert list(tmp_path.iterdir()) == []


def test_make_tracker_always_writes_metrics(tmp_path: Path) -> None:
    view = MemoryLogger()
    with make_tracker(["console"], tmp_path, "p", "e", {}, console=view) as tracker:
        tracker.log({"a": 2.0}, 1)
    assert lines(tmp_path) == [{"step": 1, "a": 2.0}]
    assert view.lines == [(1, {"a": 2.0})]
    with make_tracker(["jsonl"], tmp_path, "p", "e", {}, console=view) as tracker:
        assert len(tracker.loggers) == 1


def test_unknown_logger_lists_known_before_anything_is_opened(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"names 'swanlab', .* console, jsonl, tensorboard, wandb"):
        make_tracker(["console", "swanlab"], tmp_path, "p", "e", {})
    assert list(tmp_path.iterdir()) == []


def test_wandb_missing_says_how_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ValueError, match=r"by `.*pip install .*wandb.*`, or take wandb out of trainer\.logger"):
        make_tracker(["jsonl", "tensorboard", "wandb"], tmp_path, "p", "e", {})
    assert not (tmp_path / "metrics.jsonl").exists()


def test_wandb_goes_on_under_its_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    starts: list[dict[str, Any]] = []
    logged: list[tuple[dict[str, float], int]] = []

    def init(**settings: Any) -> Any:
        starts.append(settings)
        run = types.SimpleNamespace(finish=lambda: None)
        run.log = lambda metrics, step: logged.append((metrics, step))
        return run

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=init))
    for resume in (None, 1, None):
        with make_tracker(["wandb"], tmp_path, "project", "name", {"seed": 1}, resume) as tracker:
            tracker.log({"a": 0.5}, 2)
    first, resumed, fresh = starts
    assert first["id"] == resumed["id"] != fresh["id"]
    assert {key: first[key] for key in ("project", "name", "config", "resume")} == {
        "project": "project",
        "name": "name",
        "config": {"seed": 1},
        "resume": "allow",
    }
    assert logged == [({"a": 0.5}, 2)] * 3


def test_what_fails_in_wandb_for_want_of_disk_names_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    run = types.SimpleNamespace(finish=full, log=full)
    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=lambda **_: run))
    tracker = make_tracker(["wandb"], tmp_path, "project", "name", {})
    for act in (lambda: tracker.log({"a": 0.5}, 1), tracker.close):
        with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)) as caught:
            act()
        assert caught.value.filename == str(tmp_path / "wandb")
    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=full))
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)) as caught:
        make_tracker(["wandb"], tmp_path, "project", "name", {})
    assert caught.value.filename == str(tmp_path / "wandb")


def test_tensorboard_holds_what_its_own_writer_would(tmp_path: Path) -> None:
    """Tags, steps and float32 values, not finite ones too; each step whole on the disk as soon as it is logged."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger, figures = TensorboardLogger(tmp_path), {"a/b": 0.1, "c": math.nan, "d": -math.inf, "e": 1e300}
    for step in (1, 2):
        logger.log(figures, step)
        events = EventAccumulator(str(tmp_path / "tensorboard"))
        events.Reload()
        assert sorted(events.Tags()["scalars"]) == sorted(figures)
        for name, value in figures.items():
            found = events.Scalars(name)
            assert [event.step for event in found] == list(range(1, step + 1))
            expected = math.inf if value > 3.5e38 else float(np.float32(value))
            assert str(found[-1].value) == str(expected)
    logger.close()
    assert events.file_version == 2.0
