"""Whether a run that is killed again and again, or whose checkpoint is damaged, ends as if nothing had happened.

python benchmarks/chaos.py [--kinds gspo ppo gad sft] [--kills N] [--damages N] [--seed SEED]

Kills: a tiny run of each kind is killed by SIGKILL at random moments (also in the middle of a save and of the export)
and started again by the same command until N kills have come; every end is compared with that of an undisturbed run:
each metric, sample, weight, optimizer moment, key of `state.json` and byte of the exported model.

Damage: of a run that was stopped after three of its steps, each file of the newest checkpoint is changed in one bit,
cut in half and removed, in turn, and the run is started again: it must come to the same end, or fail in one line.

It prints a line for each kind and exits with 1 where a bit differs, an export is lost, a process is left behind, or a
damaged file does something else than that.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import same_bits
from same_bits import Bits, Tiny

__all__ = ["Tally", "damage_all", "kill_often", "main"]

KINDS = {run.name: run for run in same_bits.RUNS if run.name in ("gspo", "ppo", "gad", "sft")}
# Moments that a random time would seldom meet: the folder then holds such a file.
_SIGHTS = ("checkpoints/.tmp-*", "checkpoints/global_step_4", "huggingface.tmp", "huggingface", ".config.yaml.tmp")
_LONGEST = 120.0  # seconds after which a run is taken to hang
_GRACE = 5.0  # seconds in which the processes of a killed run must have ended
_CUT = 3  # the step after which a run whose checkpoint is damaged was stopped


@dataclass
class Tally:
    """What came out for one kind of run.

    Attributes:
        kills: how often it was killed.
        ends: how often it came to its end.
        differing: a line for each end that is not the undisturbed one's.
        lost_exports: ends without a whole exported model.
        orphans: processes that outlived a killed run.
        damages: what damaged files did: "same end", "one line", or a problem.
    """

    kills: int = 0
    ends: int = 0
    differing: list[str] = field(default_factory=list)
    lost_exports: int = 0
    orphans: int = 0
    damages: Counter[str] = field(default_factory=Counter)

    @property
    def problems(self) -> list[str]:
        bad = [what for what in self.damages if what not in ("same end", "one line")]
        return [*self.differing, *bad, *["an export is lost"] * self.lost_exports, *["an orphan"] * self.orphans]

    def line(self, name: str) -> str:
        damages = ", ".join(f"{what} {count}" for what, count in sorted(self.damages.items())) or "none"
        return (
            f"{name}: {self.kills} kills, {self.ends} ends, {len(self.differing)} with differing bits, "
            f"{self.lost_exports} lost exports, {self.orphans} orphans; damaged files: {damages}"
        )


def main(arguments: Sequence[str] | None = None) -> int:
    args = _parse(arguments)
    found: dict[str, Tally] = {}
    with tempfile.TemporaryDirectory(prefix="chaos_") as folder:
        work = Path(folder).resolve()
        _prepare(work)
        for number, name in enumerate(args.kinds):
            run = _exporting(KINDS[name])
            draw = random.Random(f"{args.seed} {number}")
            began = time.monotonic()
            log = start(work, run).wait()
            seconds = time.monotonic() - began
            if log.code:
                print(f"{name}: the undisturbed run fails: {log.last_line}")
                return 1
            whole = end_bits(work, run)
            shutil.move(work / name, work / f"{name}_whole")
            found[name] = kill_often(work, run, whole, args.kills, seconds, draw)
            damage_all(work, run, whole, found[name], draw, args.damages)
            print(found[name].line(name), flush=True)
    problems = [f"{name}: {problem}" for name, tally in found.items() for problem in tally.problems]
    print(*problems, sep="\n", end="\n" if problems else "")
    return 1 if problems else 0


def kill_often(work: Path, run: Tiny, whole: Bits, kills: int, seconds: float, draw: random.Random) -> Tally:
    """Kills a run at random moments and starts it again until it was killed so often and has ended.

    Args:
        work: the folder of runs and data.
        run: the run.
        whole: what the undisturbed one left.
        kills: how often it is killed.
        seconds: how long the undisturbed one took.
        draw: of the moments.
    """
    tally = Tally()
    while True:
        process = start(work, run)
        if tally.kills < kills:
            wait = _until_sight(work / run.name, draw) if draw.random() < 0.5 else draw.uniform(0.0, 1.2 * seconds)
            if process.kill_after(wait):
                tally.kills += 1
                tally.orphans += process.orphans()
                continue
        log = process.wait()
        tally.ends += 1
        if log.code:
            tally.differing.append(f"it does not go on after a kill: {log.last_line}")
        else:
            bits = end_bits(work, run)
            tally.differing += same_bits.differences(iter([(run.name, whole, bits)]))
            tally.lost_exports += "huggingface/config.json" not in bits
        shutil.rmtree(work / run.name, ignore_errors=True)
        for aside in work.glob(f"{run.name}.previous-*"):
            shutil.rmtree(aside)
        if tally.kills >= kills or log.code:
            return tally


def damage_all(work: Path, run: Tiny, whole: Bits, tally: Tally, draw: random.Random, limit: int | None) -> None:
    """Damages each file of a checkpoint in turn, and notes what starting the run again does.

    Args:
        work: the folder of runs and data; holds the undisturbed run as NAME_whole.
        run: the run.
        whole: what the undisturbed one left.
        tally: receives what came out.
        draw: of the bit that is changed, and of what is tried where `limit` leaves some out.
        limit: damages tried; None: all.
    """
    folder = work / run.name
    last = f"checkpoints/global_step_{_CUT}"
    names = sorted(str(path.relative_to(work / f"{run.name}_whole" / last)) for path in _files(work, run, last))
    files = [*(f"{last}/{name}" for name in names), "checkpoints/latest_checkpointed_iteration.txt", "config.yaml"]
    cases = [(name, way) for name in files for way in _WAYS]
    for name, way in cases if limit is None else draw.sample(cases, min(limit, len(cases))):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(work / f"{run.name}_whole", folder)
        shutil.rmtree(folder / "huggingface")
        same_bits.cut_back(folder / "checkpoints", _CUT)
        _WAYS[way](folder / name, draw)
        log = start(work, run).wait()
        if log.code == 0:
            differences = same_bits.differences(iter([(run.name, whole, end_bits(work, run))]))
            tally.damages["same end" if not differences else f"{name} {way}: {differences[0]}"] += 1
        else:
            tally.damages["one line" if log.is_one_line else f"{name} {way}: {log.last_line}"] += 1
    shutil.rmtree(folder, ignore_errors=True)


def _files(work: Path, run: Tiny, last: str) -> Iterator[Path]:
    return (path for path in (work / f"{run.name}_whole" / last).rglob("*") if path.is_file())


def _flip(file: Path, draw: random.Random) -> None:
    content = bytearray(file.read_bytes())
    content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    file.write_bytes(content)


def _cut(file: Path, _: random.Random) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def _remove(file: Path, _: random.Random) -> None:
    file.unlink()


_WAYS: dict[str, Callable[[Path, random.Random], None]] = {"flipped": _flip, "cut": _cut, "removed": _remove}


# Processes


@dataclass(frozen=True)
class Log:
    """How a process ended: its exit code, and what it printed."""

    code: int
    text: str

    @property
    def last_line(self) -> str:
        return (self.text.strip().splitlines() or ["without a word"])[-1]

    @property
    def is_one_line(self) -> bool:
        """Whether its end is an error of one line, without a traceback."""
        errors = [line for line in self.text.splitlines() if line.startswith("gspo: error: ")]
        return len(errors) == 1 and errors[0] == self.last_line and "Traceback" not in self.text


class Process:
    """A run in a process of its own, the first of a session, so that what it starts can be found."""

    def __init__(self, work: Path, run: Tiny) -> None:
        self._file = work / f"{run.name}.log"
        self._process = multiprocessing.get_context("fork").Process(target=_train, args=(work, run, self._file))
        self._process.start()

    def kill_after(self, wait: float | Iterator[float]) -> bool:
        """Kills it after so many seconds, or as soon as no more of short waits come; whether it still ran."""
        if isinstance(wait, float):
            self._process.join(wait)
        else:
            for pause in wait:
                self._process.join(pause)
                if self._process.exitcode is not None:
                    break
        if self._process.exitcode is not None:
            return False
        self._process.kill()
        self._process.join()
        return self._process.exitcode == -signal.SIGKILL

    def wait(self) -> Log:
        """Its end; it is killed where it hangs."""
        self._process.join(_LONGEST)
        if self._process.exitcode is None:
            self._process.kill()
            self._process.join()
            return Log(1, f"it had not ended after {_LONGEST:g} s")
        return Log(self._process.exitcode, self._file.read_text(encoding="utf-8", errors="replace"))

    def orphans(self) -> int:
        """How many of its session are there when they should have ended; they are killed."""
        deadline = time.monotonic() + _GRACE
        while (left := _session(self._process.pid or 0)) and time.monotonic() < deadline:
            time.sleep(0.05)
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return len(left)


def start(work: Path, run: Tiny) -> Process:
    """The run's command, in a process of its own."""
    return Process(work, run)


def _train(work: Path, run: Tiny, file: Path) -> None:
    os.setsid()
    os.chdir(work)
    with file.open("w", encoding="utf-8") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    sys.exit(importlib.import_module("gspo.cli").main(run.arguments()))


def _session(leader: int) -> list[int]:
    """The processes of a session that run, by /proc."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, IndexError, ValueError):
                after_name = (entry / "stat").read_text().rpartition(")")[2].split()
                if int(after_name[3]) == leader and after_name[0] != "Z":
                    found.append(int(entry.name))
    return found


def _until_sight(folder: Path, draw: random.Random) -> Iterator[float]:
    """Short waits until a file of a moment that is hard to meet is there, and then none or a few more."""
    sight = draw.choice(_SIGHTS)
    while not any(folder.glob(sight)):
        yield 0.001
    for _ in range(draw.randrange(20)):
        yield 0.001


# What a run leaves


def end_bits(work: Path, run: Tiny) -> Bits:
    """Figures, samples and everything of the last checkpoint and of the exported model, as values and hashes."""
    folder = work / run.name
    last = max((folder / "checkpoints").glob("global_step_*"), key=lambda path: int(path.name.rpartition("_")[2]))
    parts = (
        same_bits.metric_bits(folder),
        same_bits.text_bits(folder, "samples.jsonl", work),
        same_bits.file_bits(last, work),
    )
    bits: Bits = {place: value for part in parts for place, value in part}
    exported = folder / "huggingface"
    files = sorted(path for path in exported.rglob("*") if path.is_file())
    bits |= {f"huggingface/{path.relative_to(exported)}": same_bits.hashed(path.read_bytes()) for path in files}
    return bits


def _exporting(run: Tiny) -> Tiny:
    return replace(run, settings=f"{run.settings} trainer.save_hf=true")


def _prepare(work: Path) -> None:
    """Data, and a model; then this process has everything imported, and a run forks from it at once."""
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "CUDA_VISIBLE_DEVICES": ""}
    same_bits.write_data(work)
    importlib.import_module("gspo.trainer")
    importlib.import_module("gspo.api")
    importlib.import_module("gspo.cli")
    make_model = importlib.import_module("gspo.models.scratch").make_model_folder
    sizes = {"hidden_size": 32, "num_layers": 2, "max_positions": 128}
    # In a process of its own: a fork of one that has computed with several threads may hang.
    maker = multiprocessing.get_context("fork").Process(target=make_model, args=(work / "model",), kwargs=sizes)
    maker.start()
    maker.join()


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--kills", type=int, default=20, help="kills of each kind (default 20)")
    parser.add_argument("--damages", type=int, default=None, help="damages tried of each kind (default all)")
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
