"""Whether a rebuilt trainer trains the same bits: tiny runs of every kind, recorded and trained again.

python benchmarks/same_bits.py record FILE [--source DIR]     trains and writes what came out, as hashes and values
python benchmarks/same_bits.py compare FILE [--source DIR]    trains again, names the first difference of each run
python benchmarks/same_bits.py resume-old --old DIR [--source DIR]
                                                              resumes checkpoints that the code in DIR wrote

DIR is a checkout, whose `src` is trained; the default is the checkout that this file is in. All exit with 1 where bits
differ, also where a resumed run does not end as the uninterrupted one did. Bits are of one machine and one version of
torch, so record and compare on the same one; records are not committed.

Everything runs on one thread. A process imports the source once and forks for each run, which then calls `gspo.cli`.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import multiprocessing
import os
import platform
import random
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

__all__ = ["main"]

Bits = dict[str, Any]  # what a run left behind: the place of a value -> the value, or a hash of it

_TIMED = ("timing_s/", "perf/", "time")  # of these metrics the names are compared and the values are not

_REWARDS = '''
def distinct(data_source, solution_str, ground_truth, extra_info):
    """The part of distinct characters, so that random text scores differently."""
    return {"score": len(set(solution_str)) / (1 + len(solution_str)), "acc": float("e" in solution_str)}


def letters(data_source, solution_str, ground_truth, extra_info):
    """True of a third of random texts: some groups spread in it, and some do not."""
    right = float(solution_str[:1].islower())
    return {"score": right, "acc": right}


def partly(data_source, solution_str, ground_truth, extra_info):
    """Abstains from some texts, whose responses are then left out of the update."""
    if solution_str[:1].isdigit():
        return {"abstained": "begins with a digit"}
    return distinct(data_source, solution_str, ground_truth, extra_info)
'''

_BASE = """
actor_rollout_ref.model.path=model actor_rollout_ref.rollout.n=3
actor_rollout_ref.actor.policy_loss=gspo actor_rollout_ref.actor.ppo_mini_batch_size=2
actor_rollout_ref.actor.optim.lr=1e-3 actor_rollout_ref.actor.optim.lr_scheduler_type=linear
custom_reward_function.path=rewards.py custom_reward_function.name=distinct
data.train_files=train.jsonl data.val_files=test.jsonl
data.train_batch_size=4 data.max_prompt_length=40 data.max_response_length=8
trainer.total_training_steps=4 trainer.test_freq=2 trainer.save_freq=1 trainer.save_hf=false
trainer.logger=[jsonl] trainer.num_threads=1 trainer.device=cpu
"""
_TWO_EPOCHS = "actor_rollout_ref.actor.ppo_epochs=2 actor_rollout_ref.actor.shuffle=true"
_GRPO = f"""{_TWO_EPOCHS} actor_rollout_ref.actor.policy_loss=vanilla
actor_rollout_ref.actor.entropy_coeff=0.01 actor_rollout_ref.actor.use_kl_loss=true
actor_rollout_ref.actor.ppo_max_token_len_per_gpu=60 actor_rollout_ref.ref.sync_steps=2
"""
_GAE = f"{_TWO_EPOCHS} actor_rollout_ref.actor.policy_loss=ppo algorithm.adv_estimator=gae algorithm.lam=0.95"
_PPO = f"""{_GAE} trainer.critic_warmup=1
critic.optim.lr=1e-3 critic.ppo_mini_batch_size=2 critic.ppo_epochs=2 critic.shuffle=true
algorithm.use_kl_in_reward=true algorithm.kl_ctrl.type=adaptive algorithm.kl_ctrl.kl_coef=0.05
algorithm.kl_ctrl.horizon=50 algorithm.kl_ctrl.target_kl=1e-4
"""
_DAPO = """
actor_rollout_ref.actor.policy_loss=vanilla actor_rollout_ref.actor.clip_ratio_high=0.28
custom_reward_function.name=letters data.train_batch_size=2
algorithm.filter_groups.enable=true algorithm.filter_groups.metric=acc
reward.overlong_buffer.enable=true reward.overlong_buffer.len=2
"""
_GAD = """
critic.enable=true critic.optim.lr=1e-3 critic.optim.lr_scheduler_type=cosine
critic.ppo_mini_batch_size=2 critic.shuffle=true data.teacher_key=answer actor_rollout_ref.actor.use_kl_loss=true
trainer.gad_warmup_steps=2 trainer.gad_warmup_lr=3e-3 trainer.critic_warmup=2
"""
_CORRECTION = """
custom_reward_function.name=partly algorithm.rollout_correction.rollout_is=token
algorithm.rollout_correction.rollout_rs=token_k1 algorithm.rollout_correction.rollout_rs_threshold=2.0
"""


@dataclass(frozen=True)
class Tiny:
    """A tiny run.

    Attributes:
        name: of the run and of its folder.
        settings: what it sets over `_BASE`.
        command: `train` or `sft`.
        cut: the step from which it is also resumed; None: it is not.
    """

    name: str
    settings: str
    command: str = "train"
    cut: int | None = None

    def arguments(self) -> list[str]:
        texts = f"{_BASE} {self.settings} trainer.default_local_dir={self.name}".split()
        last = {text.partition("=")[0]: text for text in texts}
        return [self.command, *last.values()]


RUNS = (
    Tiny("gspo", "", cut=2),
    Tiny("grpo", _GRPO),
    Tiny("ppo", _PPO, cut=2),
    Tiny("ppo_shared", f"{_GAE} critic.shared_backbone=true trainer.critic_warmup=2"),
    Tiny("dapo", _DAPO),
    Tiny("gad", f"{_GAD} custom_reward_function.path=null", cut=3),
    Tiny("gad_frozen", f"{_GAD} critic.discriminator.freeze_after_warmup=true custom_reward_function.name=partly"),
    Tiny("correction", _CORRECTION),
    Tiny("sft", "data.max_response_length=12", command="sft", cut=2),
)
RESUMED = tuple(run for run in RUNS if run.cut is not None)


def main() -> int:
    args = _parse()
    with tempfile.TemporaryDirectory(prefix="same_bits_") as folder:
        work = Path(folder).resolve()
        if args.mode == "resume-old":
            bits = train_all(work, RESUMED, args.old, args.source)
        else:
            bits = train_all(work, RUNS, args.source, args.source)
        counts = table(work)
    problems = failed(bits) or not_resumed(bits)
    if args.mode == "record" and not failed(bits):
        args.file.write_text(json.dumps({"machine": machine(), "runs": bits}, indent=0) + "\n", encoding="utf-8")
        print(f"{sum(map(len, bits.values()))} values written to {args.file}")
    if args.mode == "compare":
        problems = compare(args.file, bits) or problems
    equal = f"{len(bits)} runs" + ("" if args.mode == "record" else ", all equal")
    print(*(problems or [equal]), sep="\n")
    print(counts)
    return 1 if problems else 0


def compare(file: Path, bits: dict[str, Bits]) -> list[str]:
    """A line for each run that is not as recorded."""
    record = json.loads(file.read_text(encoding="utf-8"))
    if record["machine"] != machine():
        print(f"recorded on {record['machine']}, compared on {machine()}: bits may differ for that alone")
    names = dict.fromkeys([*record["runs"], *bits])
    return differences((name, record["runs"].get(name, {}), bits.get(name, {})) for name in names)


def not_resumed(bits: dict[str, Bits]) -> list[str]:
    """A line for each resumed run that does not end as the uninterrupted one did."""
    names = (f"{run.name}, resumed" for run in RESUMED)
    return differences((name, bits[run.name], bits[name]) for name, run in zip(names, RESUMED, strict=True))


def failed(bits: dict[str, Bits]) -> list[str]:
    return [f"{name}: training {found['training']}" for name, found in bits.items() if found["training"] != "finished"]


def differences(runs: Iterator[tuple[str, Bits, Bits]]) -> list[str]:
    """What differs first in each run; figures come in the order of the steps, before tensors."""
    lines = []
    for name, was, now in runs:
        # As text: NaN equals itself, and 0.0 is not -0.0.
        texts = [(place, *(json.dumps(bits.get(place, "absent")) for bits in (was, now))) for place in {**was, **now}]
        different = [text for text in texts if text[1] != text[2]]
        if different:
            place, old, new = different[0]
            lines.append(f"{name}: {place}: was {old}, is {new} (the first of {len(different)} of {len(texts)} values)")
    return lines


# Training, in processes of their own


def train_all(work: Path, runs: Sequence[Tiny], source: Path, resuming: Path) -> dict[str, Bits]:
    """Trains every run with `source`, then from their middle, with `resuming`, those that are cut; what each left."""
    write_data(work)
    work_in(work, source, runs)
    bits = {"model": {"training": "finished", **dict(file_bits(work / "model", work))}}
    bits |= {run.name: run_bits(work, run) for run in runs}
    whole = [run for run in RESUMED if bits[run.name]["training"] == "finished"]
    for run in whole:
        shutil.move(work / f"{run.name}.json", work / f"{run.name}_whole.json")
        cut_back(work / run.name / "checkpoints", run.cut or 0)
    work_in(work, resuming, whole)
    return bits | {f"{run.name}, resumed": run_bits(work, run) for run in RESUMED}


def write_data(work: Path) -> None:
    for name, count in (("train", 10), ("test", 3)):
        rows = [
            {
                "data_source": "tiny",
                "prompt": [{"role": "user", "content": f"{name} {number}: spell {'abcdefghij'[: number + 1]}"}],
                "reward_model": {"style": "rule", "ground_truth": str(number)},
                "answer": "jihgfedcba"[: number + 1],
            }
            for number in range(count)
        ]
        (work / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (work / "rewards.py").write_text(_REWARDS, encoding="utf-8")


def cut_back(checkpoints: Path, step: int) -> None:
    """Leaves a run's checkpoints as they were after this step."""
    for folder in checkpoints.glob("global_step_*"):
        if int(folder.name.rpartition("_")[2]) > step:
            shutil.rmtree(folder)
    (checkpoints / "latest_checkpointed_iteration.txt").write_text(str(step), encoding="utf-8")


def work_in(work: Path, source: Path, runs: Sequence[Tiny]) -> None:
    """Trains the runs one after the other with the code of a checkout."""
    one_thread = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    quiet = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "CUDA_VISIBLE_DEVICES": ""}
    environment = {**os.environ, **one_thread, **quiet, "PYTHONPATH": str(source.resolve() / "src")}
    command = [sys.executable, str(Path(__file__).resolve()), "worker", *(run.name for run in runs)]
    subprocess.run(command, cwd=work, env=environment, check=True)


def worker(names: Sequence[str]) -> None:
    """In the process that `work_in` starts: imports the source once, then forks for each run."""
    found = Path(importlib.import_module("gspo").__file__ or "").resolve().parents[1]
    if found != Path(os.environ["PYTHONPATH"]):
        raise SystemExit(f"gspo is imported from {found} and not from {os.environ['PYTHONPATH']}: is that a checkout?")
    importlib.import_module("gspo.trainer")
    make_model = importlib.import_module("gspo.models.scratch").make_model_folder
    fork = multiprocessing.get_context("fork").Process
    jobs = [fork(target=train_one, args=(run,)) for run in RUNS if run.name in names]
    if not Path("model").exists():
        sizes = {"hidden_size": 32, "num_layers": 2, "max_positions": 128}
        jobs.insert(0, fork(target=make_model, args=(Path("model"),), kwargs=sizes))
    for job in jobs:
        job.start()
        job.join()


def train_one(run: Tiny) -> None:
    """In a process of its own: trains a run, its output in NAME.log, its exit code and its counts in NAME.json."""
    with open(f"{run.name}.log", "w", encoding="utf-8") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    # An older source saves these two generators and does not seed them.
    random.seed(1)
    importlib.import_module("numpy").random.seed(1)
    counts = {"opens": count_opens(), "layouts": count_layouts(Path(run.name) / "metrics.jsonl")}
    code = importlib.import_module("gspo.cli").main(["--debug", *run.arguments()])
    Path(f"{run.name}.json").write_text(json.dumps({"code": code, **counts}), encoding="utf-8")


# What a run left behind


def run_bits(work: Path, run: Tiny) -> Bits:
    """Everything that must not change, figures first, in the order of the steps."""
    result = work / f"{run.name}.json"
    code = json.loads(result.read_text(encoding="utf-8"))["code"] if result.exists() else 1
    if code:
        log = work / f"{run.name}.log"
        lines = log.read_text(encoding="utf-8").strip().splitlines() if log.exists() else []
        return {"training": f"failed: {(lines or ['without a word'])[-1]}"}
    folder = work / run.name
    last = max((folder / "checkpoints").glob("global_step_*"), key=lambda path: int(path.name.rpartition("_")[2]))
    parts = (metric_bits(folder), text_bits(folder, "samples.jsonl", work), file_bits(last, work))
    bits = {"training": "finished", **{place: value for part in parts for place, value in part}}
    settings = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8").replace(str(work), "WORK"))
    return bits | {f"config.yaml {key}": value for key, value in flat(settings, "")}


def metric_bits(folder: Path) -> Iterator[tuple[str, Any]]:
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, start=1):
        metrics = json.loads(line)
        for name, value in metrics.items():
            place = f"metrics.jsonl line {number}, step {metrics['step']}, {name}"
            yield place, "a time" if name.startswith(_TIMED) else value


def text_bits(folder: Path, name: str, work: Path) -> Iterator[tuple[str, Any]]:
    """Each line of a text file, or its hash where it is long."""
    file = folder / name
    text = file.read_text(encoding="utf-8").replace(str(work), "WORK") if file.exists() else ""
    for number, line in enumerate(text.splitlines(), start=1):
        yield f"{name} line {number}", line if len(line) <= 200 else hashed(line.encode())


def file_bits(folder: Path, work: Path) -> Iterator[tuple[str, Any]]:
    """The JSON files of a folder by key, and its tensors by entry and name."""
    for file in sorted(folder.glob("*.json")):
        content = json.loads(file.read_text(encoding="utf-8").replace(str(work), "WORK"))
        yield from ((f"{file.name} {key}", value) for key, value in flat(content, ""))
    for file in sorted(folder.glob("*.safetensors")):
        yield from ((f"{file.stem}, tensor {name}", value) for name, value in tensor_hashes(file))


def flat(content: Any, key: str) -> Iterator[tuple[str, Any]]:
    """Values of nested dicts by their keys; what is long, as a hash."""
    if isinstance(content, dict) and content:
        for name, value in content.items():
            yield from flat(value, f"{key}.{name}" if key else name)
    else:
        content = sorted(content) if key == "tensors" else content  # which files there are, in whatever order
        text = json.dumps(content)
        yield key, content if len(text) <= 200 else hashed(text.encode())


def tensor_hashes(file: Path) -> Iterator[tuple[str, str]]:
    """Type, shape and a hash of the bytes of each tensor, read as the safetensors format says."""
    data = file.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    for name, about in sorted(json.loads(data[8:start]).items()):
        if name == "__metadata__":
            continue
        first, end = about["data_offsets"]
        yield name, f"{about['dtype']} {about['shape']} {hashed(data[start + first : start + end])}"


def hashed(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def machine() -> str:
    return f"{platform.platform()}, Python {platform.python_version()}, torch {version('torch')}"


# What is counted and not compared


def count_opens() -> list[int] | None:
    """A list that grows with each checkpoint opened; None where this source has no such function."""
    module = importlib.import_module("gspo.checkpoint.loading")
    original = getattr(module, "_open", None)
    return None if original is None else _counted(lambda call: setattr(module, "_open", call), original, lambda: 1)


def count_layouts(metrics: Path) -> list[int] | None:
    """A list that grows by the step in which groups are laid out for training; None where there is no such method."""
    batch = importlib.import_module("gspo.groups").GroupBatch
    original = getattr(batch, "from_groups", None)

    def step() -> int | None:
        return None if _in_validation() else last_step(metrics) + 1

    return None if original is None else _counted(lambda call: setattr(batch, "from_groups", call), original, step)


def _counted(put: Callable[[Any], None], original: Callable[..., Any], what: Callable[[], int | None]) -> list[int]:
    counts: list[int] = []

    def call(*arguments: Any, **named: Any) -> Any:
        if (found := what()) is not None:
            counts.append(found)
        return original(*arguments, **named)

    put(staticmethod(call) if hasattr(original, "__self__") else call)
    return counts


def _in_validation() -> bool:
    frame = sys._getframe()
    while frame is not None and frame.f_globals["__name__"] != "gspo.trainer.validation":
        frame = frame.f_back  # type: ignore[assignment]
    return frame is not None


def last_step(metrics: Path) -> int:
    lines = metrics.read_text(encoding="utf-8").splitlines() if metrics.exists() else []
    return int(json.loads(lines[-1])["step"]) if lines else 0


def table(work: Path) -> str:
    """Opens of a checkpoint in a resume, and layouts in each kind of step of GAD."""
    rows = [f"opens of a checkpoint, {name} resumed: {opens(work / f'{name}.json')}" for name in ("gspo", "sft")]
    phases = {0.0: "warmup", 1.0: "discriminator", 2.0: "adversarial"}
    for name, file in (("gad", "gad_whole.json"), ("gad_frozen", "gad_frozen.json")):
        found = layouts(work / file, work / name / "metrics.jsonl")
        rows += [f"layouts in a step, {name} {title}: {found.get(phase, 'n/a')}" for phase, title in phases.items()]
    return "\n".join(rows)


def opens(file: Path) -> str:
    found = json.loads(file.read_text(encoding="utf-8"))["opens"] if file.exists() else None
    return "n/a" if found is None else str(len(found))


def layouts(file: Path, metrics: Path) -> dict[float, str]:
    """Phase -> how often a step lays groups out; several numbers where its steps differ. Without the first step, to
    whose count what is laid out in setting up is added."""
    found = json.loads(file.read_text(encoding="utf-8"))["layouts"] if file.exists() else None
    if found is None or not metrics.exists():
        return {}
    counts, by_phase = Counter(found), dict[float, set[int]]()
    for line in metrics.read_text(encoding="utf-8").splitlines():
        step = json.loads(line)
        if "training/gad_stage" in step and step["step"] > 1:
            by_phase.setdefault(step["training/gad_stage"], set()).add(counts[step["step"]])
    return {phase: ", ".join(map(str, sorted(numbers))) for phase, numbers in by_phase.items()}


def _parse() -> argparse.Namespace:
    here = Path(__file__).resolve().parents[1]
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    modes = parser.add_subparsers(dest="mode", required=True)
    for name in ("record", "compare", "resume-old"):
        mode = modes.add_parser(name)
        if name == "resume-old":
            mode.add_argument("--old", type=Path, required=True, metavar="DIR", help="the checkout that writes them")
        else:
            mode.add_argument("file", type=Path, metavar="FILE")
        mode.add_argument("--source", type=Path, default=here, metavar="DIR", help="checkout whose src is trained")
    return parser.parse_args()


if __name__ == "__main__":
    if sys.argv[1:2] == ["worker"]:
        worker(sys.argv[2:])
    else:
        sys.exit(main())
