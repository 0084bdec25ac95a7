"""Checkpoints: bit-exact round trips, kills at every moment of a save, and what each damaged file says."""

from __future__ import annotations

import errno
import hashlib
import itertools
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from messages import names
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from gspo.checkpoint import CheckpointError, find_latest, load_checkpoint, save_checkpoint
from gspo.checkpoint.loading import POINTER
from gspo.checkpoint.manifest import MANIFEST, write_manifest


def exactly(message: str) -> str:
    return f"^{re.escape(message)}$"


def bits(tensor: Tensor) -> tuple[torch.dtype, tuple[int, ...], bytes]:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return tensor.dtype, tuple(tensor.shape), flat.view(torch.uint8).numpy().tobytes()


def same_bits(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return {name: bits(tensor) for name, tensor in left.items()} == {
        name: bits(tensor) for name, tensor in right.items()
    }


def save_step(run: Path, step: int, keep: int | None = None, export: Callable[[Path], None] | None = None) -> Path:
    tensors = {"actor": {"weight": torch.full((3,), float(step))}, "actor_optim": {"step": torch.tensor(step)}}
    return save_checkpoint(run, step, tensors=tensors, state={"samples": step}, hf_export=export, keep=keep)


def saved_steps(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").iterdir())


def latest_of(run: Path) -> tuple[Path | None, list[str]]:
    """The folder of the newest whole checkpoint, and what finding it had to say."""
    checkpoint, warnings = find_latest(run)
    return (checkpoint.path if checkpoint is not None else None), warnings


# Round trips


def test_every_type_comes_back_bit_for_bit(tmp_path: Path) -> None:
    floats = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
    special = [float("nan"), float("inf"), -0.0, 1e-40, 1 / 3]
    tensors = {str(dtype): torch.tensor(special, dtype=dtype) for dtype in floats}
    tensors |= {str(dtype): torch.tensor([0, 1, 100], dtype=dtype) for dtype in (torch.int64, torch.uint8, torch.bool)}
    tensors |= {"scalar": torch.tensor(7), "empty": torch.zeros(0, 4), "transposed": torch.arange(6.0).view(2, 3).T}
    state = {"text": "é\n", "nested": [1, 2.5, True, None, {"big": 2**70}], "third": 1 / 3, "infinite": float("inf")}
    path = save_checkpoint(tmp_path, 12, tensors={"all": tensors}, state=state)
    loaded = load_checkpoint(path)
    assert path == tmp_path / "checkpoints" / "global_step_12"
    assert (loaded.step, loaded.state, list(loaded.tensors)) == (12, state, ["all"])
    assert same_bits(loaded.tensors["all"], tensors)
    assert (tmp_path / "checkpoints" / "latest_checkpointed_iteration.txt").read_text() == "12\n"


def test_tied_tensors_are_stored_once_and_come_back_tied(tmp_path: Path) -> None:
    weight, base = torch.randn(50, 20), torch.arange(10.0)
    entry = {"embed": weight, "head": weight.detach(), "whole": base, "part": base[3:7], "turned": weight.T}
    path = save_checkpoint(tmp_path, 1, tensors={"actor": entry}, state={})
    loaded = load_checkpoint(path).tensors["actor"]
    assert same_bits(loaded, entry)
    assert loaded["embed"] is loaded["head"]
    assert (path / "actor.safetensors").stat().st_size < 2.5 * weight.nbytes


def test_an_unknown_entry_names_the_known_ones(tmp_path: Path) -> None:
    loaded = load_checkpoint(save_step(tmp_path, 3))
    assert "critic" not in loaded.tensors
    with pytest.raises(KeyError, match=r"has no tensors 'critic'; it has actor, actor_optim"):
        loaded.tensors["critic"]


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"a": {1: 2}}, "state.a has the key 1, which JSON would turn into text; use a string key"),
        (
            {"a": [0, (1, 2)]},
            "state.a[1] is a tuple, which JSON cannot hold exactly; "
            "give dict, list, str, int, float, bool or None, and tensors under `tensors`",
        ),
    ],
)
def test_state_that_json_would_change_is_refused(tmp_path: Path, state: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=exactly(message)):
        save_checkpoint(tmp_path, 1, tensors={}, state=state)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"step": -1}, "step is -1; a checkpoint's step is zero or more"),
        ({"keep": 0}, "keep is 0; keep at least 1 checkpoint, or None to keep all"),
        ({"tensors": {"../x": {}}}, "tensors entry '../x' cannot name a file; use letters, digits, '_' and '-'"),
    ],
)
def test_arguments_that_cannot_be_saved(tmp_path: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=exactly(message)):
        save_checkpoint(tmp_path, **{"step": 1, "tensors": {}, "state": {}} | arguments)


# Which checkpoints stay, and which is the latest


def test_keep_deletes_the_oldest(tmp_path: Path) -> None:
    for step in (2, 9, 10, 11):
        save_step(tmp_path, step, keep=2)
    assert saved_steps(tmp_path) == ["global_step_10", "global_step_11", "latest_checkpointed_iteration.txt"]


def test_after_a_rewind_the_new_branch_is_the_latest_and_is_kept(tmp_path: Path) -> None:
    for step in (10, 20, 30):
        save_step(tmp_path, step)
    save_step(tmp_path, 15, keep=1)
    assert saved_steps(tmp_path)[:-1] == ["global_step_15", "global_step_20", "global_step_30"]
    assert latest_of(tmp_path) == (tmp_path / "checkpoints" / "global_step_15", [])


def test_the_same_step_is_replaced(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 5, tensors={"old": {}}, state={"old": True})
    path = save_step(tmp_path, 5, keep=1)
    assert load_checkpoint(path).state == {"samples": 5}
    assert saved_steps(tmp_path) == ["global_step_5", "latest_checkpointed_iteration.txt"]


def test_a_run_without_checkpoints_has_no_latest(tmp_path: Path) -> None:
    assert latest_of(tmp_path / "never") == (None, [])


def test_damaged_checkpoints_are_passed_over_and_said(tmp_path: Path) -> None:
    paths = [save_step(tmp_path, step) for step in (1, 2, 3, 4)]
    (paths[3] / "state.json").unlink()
    file = paths[2] / "actor.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    latest = find_latest(tmp_path)
    assert latest.checkpoint is not None
    assert latest.checkpoint.path == paths[1]
    assert [line.split(":")[0] for line in latest.warnings] == [
        "passed over global_step_4",
        "passed over global_step_3",
    ]
    assert str(paths[3] / "state.json") in latest.warnings[0]
    assert str(file) in latest.warnings[1]


@pytest.mark.parametrize(
    ("text", "warning"),
    [
        ("7\n", "{pointer} names step 7, and there is no folder global_step_7"),
        ("\x00", "{pointer} holds '\\x00' instead of a step; the newest complete checkpoint is used"),
    ],
)
def test_a_wrong_pointer_is_said(tmp_path: Path, text: str, warning: str) -> None:
    path = save_step(tmp_path, 4)
    pointer = tmp_path / "checkpoints" / "latest_checkpointed_iteration.txt"
    pointer.write_text(text)
    assert latest_of(tmp_path) == (path, [warning.format(pointer=pointer)])


# Kills


class Killed(BaseException):
    """Ends a save as a kill would: nothing in the package catches it."""


@contextmanager
def killed_at(monkeypatch: pytest.MonkeyPatch, call_number: int) -> Iterator[None]:
    """Makes the given call, counted from 0 among those that change the disk, raise `Killed`."""
    calls = itertools.count()

    def counted(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if next(calls) == call_number:
                raise Killed
            return original(*args, **kwargs)

        return call

    with monkeypatch.context() as patch:
        patch.setattr("gspo.checkpoint.files.save_file", counted(save_file))
        for owner, name in ((os, "replace"), (os, "fsync"), (shutil, "rmtree"), (Path, "mkdir"), (Path, "write_text")):
            patch.setattr(owner, name, counted(getattr(owner, name)))
        yield


@pytest.mark.parametrize("new_step", [6, 5], ids=["next step", "same step again"])
def test_killed_at_any_call_a_complete_checkpoint_remains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, new_step: int
) -> None:
    finished = False
    call_number = 0
    while not finished:
        run = tmp_path / str(call_number)
        save_step(run, 5, keep=1)
        with suppress(Killed), killed_at(monkeypatch, call_number):
            save_step(run, new_step, keep=1, export=lambda path: (path / "config.json").touch())
            finished = True
        loaded, _ = find_latest(run)
        assert loaded is not None, f"nothing loads after a kill at call {call_number}"
        assert loaded.step in (5, new_step)
        assert loaded.state == {"samples": loaded.step}
        assert torch.equal(loaded.tensors["actor"]["weight"], torch.full((3,), float(loaded.step)))
        path = save_step(run, 7, keep=1)
        assert saved_steps(run) == ["global_step_7", "latest_checkpointed_iteration.txt"]
        assert latest_of(run) == (path, [])
        call_number += 1
    assert call_number > 15  # the patched calls were indeed counted


def test_an_export_that_fails_leaves_the_previous_checkpoint(tmp_path: Path) -> None:
    def fail(path: Path) -> None:
        (path / "half").touch()
        raise OSError("disk full")

    before = save_step(tmp_path, 1)
    with pytest.raises(OSError, match="disk full"):
        save_step(tmp_path, 2, keep=1, export=fail)
    assert latest_of(tmp_path) == (before, [])


# Damage


def change_a_weight(path: Path) -> None:
    """Turns one bit of a number, which leaves a file that can be read."""
    file = path / "actor.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def damage_format(path: Path) -> None:
    """A checkpoint of a later release."""
    content = json.loads((path / "state.json").read_text())
    (path / "state.json").write_text(json.dumps(content | {"format": 99}))
    write_manifest(path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            shutil.rmtree,
            "{path} does not exist; give the folder of a checkpoint, RUN/checkpoints/global_step_N",
        ),
        (
            lambda path: (path / "state.json").unlink(),
            "{path}/state.json is missing: global_step_3 is not a complete checkpoint; "
            "the newest whole checkpoint before it is {before}",
        ),
        (
            lambda path: (path / "state.json").write_text(""),
            "{path}/state.json is damaged: its sha256 is not the one in SHA256SUMS; "
            "the newest whole checkpoint before it is {before}",
        ),
        (
            damage_format,
            "{path}/state.json has format version 99 and this release reads 2; "
            "resume with the release of gspo that wrote it, or start from its huggingface folder as the model",
        ),
        (
            lambda path: (path / "actor.safetensors").unlink(),
            "{path}/actor.safetensors is missing: put it back; the newest whole checkpoint before it is {before}",
        ),
        (
            change_a_weight,
            "{path}/actor.safetensors is damaged: its sha256 is not the one in SHA256SUMS; "
            "the newest whole checkpoint before it is {before}",
        ),
        (
            lambda path: (path / "SHA256SUMS").unlink(),
            "{path}/SHA256SUMS is missing: put it back; the newest whole checkpoint before it is {before}",
        ),
        (
            lambda path: (path / "huggingface" / "config.json").unlink(),
            "{path}/huggingface/config.json is missing: put it back; the newest whole checkpoint before it is {before}",
        ),
    ],
)
def test_damage_names_the_file(tmp_path: Path, damage: Callable[[Path], None], message: str) -> None:
    before = save_step(tmp_path, 1)
    change_a_weight(save_step(tmp_path, 2))
    path = save_step(tmp_path, 3, export=lambda path: (path / "config.json").touch())
    save_step(tmp_path, 4)
    damage(path)
    with pytest.raises(CheckpointError, match=exactly(message.format(path=path, before=before))):
        load_checkpoint(path)


def test_a_run_without_a_whole_checkpoint_says_so(tmp_path: Path) -> None:
    path = save_step(tmp_path, 3)
    change_a_weight(path)
    message = f"{path}/actor.safetensors is damaged: its sha256 is not the one in SHA256SUMS; "
    with pytest.raises(CheckpointError, match=exactly(f"{message}there is no whole checkpoint before it")):
        load_checkpoint(path)
    assert latest_of(tmp_path) == (
        None,
        [f"passed over global_step_3: {message}there is no whole checkpoint before it"],
    )


def test_the_checksums_are_sha256sums(tmp_path: Path) -> None:
    path = save_step(tmp_path, 3, export=lambda path: (path / "config.json").write_text("{}") and None)
    lines = (path / "SHA256SUMS").read_text().splitlines()
    files = ["actor.safetensors", "actor_optim.safetensors", "config.json", "huggingface/config.json", "state.json"]
    assert lines == [f"{hashlib.sha256((path / name).read_bytes()).hexdigest()}  {name}" for name in files]


@pytest.mark.parametrize("length", [0, 4, 20, -1])
def test_truncated_tensors_name_the_file(tmp_path: Path, length: int) -> None:
    path = save_step(tmp_path, 3)
    opened = load_checkpoint(path)
    file = path / "actor.safetensors"
    file.write_bytes(file.read_bytes()[:length])
    expected = rf"^{re.escape(str(file))} is not a readable safetensors file \(.+\): it is truncated or damaged"
    with pytest.raises(CheckpointError, match=expected):
        load_checkpoint(path)
    with pytest.raises(CheckpointError, match=expected):
        opened.tensors["actor"]


def test_every_bit_of_every_file_is_held_by_a_checksum(tmp_path: Path) -> None:
    before, path = save_step(tmp_path, 1), save_step(tmp_path, 2)
    for file in sorted(path.iterdir()):
        whole = file.read_bytes()
        middle = len(whole) // 2
        flipped = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
        for damaged in (flipped, whole[:middle], b"", whole[: whole.rfind(b"\n", 0, -1) + 1] or b"\n", b"\xff" * 9):
            file.write_bytes(damaged)
            found, warnings = latest_of(tmp_path)
            assert found == before, (file.name, damaged[:40])
            assert names(warnings[0], path.name, path)
            assert len(warnings) == 1
        file.write_bytes(whole)
    assert latest_of(tmp_path) == (path, [])


@pytest.mark.parametrize("name", ["actor.safetensors", "state.json"])
def test_a_line_that_is_missing_among_the_checksums_is_damage(tmp_path: Path, name: str) -> None:
    path = save_step(tmp_path, 3)
    kept = [line for line in (path / MANIFEST).read_text().splitlines() if not line.endswith(f"  {name}")]
    (path / MANIFEST).write_text("\n".join(kept) + "\n")
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    assert names(caught, path / MANIFEST, name)


@pytest.mark.parametrize(
    "content", ["{}", "[]", '{"format": 2}', '{"format": 2, "step": 3, "tensors": 1, "state": {}}']
)
def test_a_state_of_another_shape_is_damage_even_with_its_checksum(tmp_path: Path, content: str) -> None:
    path = save_step(tmp_path, 3)
    (path / "state.json").write_text(content)
    write_manifest(path)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    assert names(caught, path / "state.json", "damaged")


def test_the_folder_tells_transformers_which_command_makes_a_model_of_it(tmp_path: Path) -> None:
    path = save_step(tmp_path, 3)
    with pytest.raises(ValueError, match=r"gspo export RUN/checkpoints/global_step_3"):
        AutoModelForCausalLM.from_pretrained(path)


# A full disk


def full(*_: Any, **__: Any) -> None:
    raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


def test_a_full_disk_names_the_file_and_leaves_room_and_the_earlier_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = save_step(tmp_path, 1)
    with monkeypatch.context() as patch:
        patch.setattr("gspo.checkpoint.files.save_file", full)
        with pytest.raises(CheckpointError) as caught:
            save_step(tmp_path, 2)
    assert names(caught, "global_step_2/actor.safetensors", "disk is full", "same command")
    assert saved_steps(tmp_path) == [before.name, "latest_checkpointed_iteration.txt"]
    assert latest_of(tmp_path) == (before, [])
    assert latest_of(tmp_path) != (save_step(tmp_path, 2), [])


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES])
def test_every_file_that_cannot_be_written_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    original = Path.write_text

    def write(self: Path, *arguments: Any, **named: Any) -> int:
        if self.name == failing:
            raise OSError(number, os.strerror(number))  # a write does not know its file's name
        return original(self, *arguments, **named)

    monkeypatch.setattr(Path, "write_text", write)
    for failing in ("state.json", "config.json", MANIFEST, f".{POINTER}.tmp"):
        with pytest.raises(CheckpointError) as caught:
            save_step(tmp_path, 2)
        assert names(caught, POINTER if POINTER in failing else failing, "could not be written")


# Rolling checkpoints


def test_a_rolling_checkpoint_makes_room_and_others_stay(tmp_path: Path) -> None:
    save_step(tmp_path, 1)
    for step in (2, 3, 4):
        save_checkpoint(tmp_path, step, tensors={}, state={}, rolling=True)
    assert saved_steps(tmp_path)[:-1] == ["global_step_1", "global_step_3", "global_step_4"]
    save_step(tmp_path, 5)
    assert saved_steps(tmp_path)[:-1] == ["global_step_1", "global_step_4", "global_step_5"]
