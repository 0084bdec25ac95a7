"""The command `gspo`. Its parts are imported when they are called, so that `gspo --help` is quick."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from gspo import __version__
from gspo.commands.arguments import (
    Parser,
    explain_config_files,
    explain_error,
    explain_overrides,
    explain_unknown,
    without_names,
)
from gspo.signals import Stopped, handled, is_importing, leave_at_once, let_go_of_terminal

__all__ = ["main"]

_OVERRIDES = "key=value overrides, as in actor_rollout_ref.actor.policy_loss=gspo (`gspo config` prints every key)"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code: 0, 1 for an error of the user's, 130 for Ctrl-C, 143 for SIGTERM."""
    asked: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        """Unwinds, so that what was opened is closed; a second signal does not wait for that."""
        if number == signal.SIGHUP:
            let_go_of_terminal()
        if asked:
            leave_at_once(number)
        if is_importing(frame):  # an exception within a library's C++ would end in its own traceback
            print("gspo: stopped", file=sys.stderr, flush=True)
            leave_at_once(number)
        asked.append(number)
        raise Stopped(number)

    try:
        with handled(stop):
            return _run(arguments)
    except KeyboardInterrupt as error:
        print(f"gspo: stopped {getattr(error, 'said', '')}".rstrip(), file=sys.stderr)
        return 128 + int(getattr(error, "number", signal.SIGINT))


def _run(arguments: Sequence[str] | None) -> int:
    args = _parse(arguments)
    try:
        return int(args.run(args) or 0)
    except (ValueError, OSError) as error:
        if args.debug:
            raise
        print(f"gspo: error: {explain_error(error)}", file=sys.stderr)
        return 1


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The parsed arguments; overrides may stand before and behind the options, as with Hydra."""
    parser = _parser()
    words = list(sys.argv[1:] if arguments is None else arguments)
    args, rest = parser.parse_known_args(words)
    if unknown := [text for text in rest if text.startswith("-") or not hasattr(args, "overrides")]:
        parser.error(explain_unknown(args.command, unknown, words))
    if rest:
        args.overrides += rest
    return args


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="gspo", description="Sequence-level reinforcement learning for language models.")
    parser.add_argument("--version", action="version", version=f"gspo {__version__}")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _config_command(commands, "train", "train with reinforcement learning on verifiable rewards", _train)
    _config_command(commands, "sft", "supervised fine-tuning on an answer column", _sft)
    _print_command(commands)
    compare = _config_command(
        commands, "compare", "the same task and seeds with several settings, side by side", _compare
    )
    compare.add_argument(
        "--variants",
        nargs="+",
        required=True,
        metavar="NAME:KEY=VALUE,...",
        help="what each variant sets over the base",
    )
    compare.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3], metavar="SEED", help="default 1 2 3")
    compare.add_argument("--out", default="runs/compare", metavar="DIR", help="runs, compare.html and compare.json")
    evaluate = commands.add_parser("eval", help="accuracy of models or checkpoints on data sets")
    evaluate.add_argument("models", nargs="+", metavar="MODEL", help="Hugging Face folder, hub name, run or checkpoint")
    evaluate.add_argument("--data", nargs="+", required=True, metavar="FILE", help="parquet, json or jsonl files")
    evaluate.add_argument("--n", type=int, default=1, help="responses per prompt (default 1)")
    evaluate.add_argument(
        "--temperature", type=float, default=None, help="default 0, greedy, for one response and 1 for several"
    )
    evaluate.add_argument("--top-p", type=float, default=1.0, help="default 1, the whole distribution")
    evaluate.add_argument("--max-samples", type=int, default=-1, help="only the first rows of each file (default all)")
    evaluate.add_argument("--out", default="runs/eval", metavar="DIR", help="results.json and responses.jsonl go there")
    evaluate.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="as in data.max_response_length=1024"
    )
    evaluate.set_defaults(run=_eval)
    export = commands.add_parser("export", help="make a Hugging Face model folder of a checkpoint")
    export.add_argument("source", type=Path, metavar="RUN|CHECKPOINT", help="a run's newest checkpoint, or one of them")
    export.add_argument("--step", type=int, default=None, metavar="N", help="the checkpoint of a run after step N")
    export.add_argument(
        "--out",
        type=Path,
        default=None,
        metavar="DIR",
        help="default RUN/huggingface for the newest checkpoint, RUN/huggingface-step-N for another",
    )
    export.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="actor_rollout_ref.model.path=FOLDER where the model that the run began with has moved",
    )
    export.set_defaults(run=_export)
    report = commands.add_parser("report", help="write report.html of a run folder, or compare several runs")
    report.add_argument(
        "folders",
        nargs="+",
        metavar="RUN",
        help="a run's folder, of verl's too, or the file that verl's file logger wrote; several are laid side by side",
    )
    report.add_argument("--out", default=None, metavar="FILE", help="page of several runs (default RUN/compare.html)")
    report.set_defaults(run=_report)
    samples = commands.add_parser("samples", help="show what a run's model wrote, with rewards and advantages")
    samples.add_argument("folder", metavar="RUN", help="the run's folder")
    samples.add_argument("--step", type=int, default=None, metavar="N", help="default: the last one with samples")
    samples.add_argument("--split", choices=["train", "val"], default=None, help="training or held-out prompts only")
    samples.add_argument("--groups", type=int, default=4, metavar="N", help="prompts to show (default 4; 0: all)")
    samples.add_argument("--full", action="store_true", help="the whole of long texts")
    samples.add_argument("--json", action="store_true", help="one JSON object a prompt, with everything")
    samples.set_defaults(run=_samples)
    quickstart = commands.add_parser("quickstart", help="from nothing to a trained model in about two minutes on a CPU")
    quickstart.add_argument("--seed", type=int, default=1)
    quickstart.add_argument("--out", default="runs/quickstart", metavar="DIR", help="default runs/quickstart")
    quickstart.add_argument("--gad", action="store_true", help="distil a teacher that can only be read, by GAD")
    quickstart.set_defaults(run=_quickstart)
    _register_data(commands)
    return parser


def _config_command(
    commands: Any, name: str, line: str, run: Callable[[argparse.Namespace], int | None]
) -> argparse.ArgumentParser:
    presets = ", ".join(sorted(file.stem for file in (Path(__file__).parent / "config" / "presets").glob("*.yaml")))
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=line, description=f"{line[0].upper()}{line[1:]}.", epilog=f"presets: {presets}"
    )
    parser.add_argument("--config-path", metavar="DIR", help="folder of the YAML file")
    parser.add_argument("--config-name", metavar="NAME", help="file in it, or a preset: without .yaml")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help=_OVERRIDES)
    parser.set_defaults(run=run)
    return parser


def _print_command(commands: Any) -> None:
    parser = _config_command(commands, "config", "print the resolved configuration, every key explained", _config)
    parser.usage = (
        "gspo config [-h] [--config-path DIR] [--config-name NAME] [--set-only] [--flat] [SECTION|KEY|KEY=VALUE ...]"
    )
    parser.description = (
        "Print the resolved configuration, every key explained, or only the sections and keys that are named. What is "
        "printed can be used as a file."
    )
    parser.add_argument("--set-only", action="store_true", help="only what your file and overrides set, not a preset")
    parser.add_argument("--flat", action="store_true", help="a line for each key, with its full name: for grep")


def _register_data(commands: Any) -> None:
    from gspo.commands.data import register

    register(commands)


def _load(args: argparse.Namespace) -> Any:
    from gspo.config import load_config

    _explain(args)
    return load_config(args.config_path, args.config_name, args.overrides)


def _train(args: argparse.Namespace) -> int:
    config = _begin(args)
    from gspo.api import train

    run = train(config)
    if not config.trainer.val_only:
        _print_paths(run.folder)
    return 0


def _sft(args: argparse.Namespace) -> int:
    config = _begin(args)
    from gspo.api import sft

    _print_paths(sft(config).folder)
    return 0


def _explain(args: argparse.Namespace) -> None:
    """Answers what cannot be a configuration as it was typed."""
    explain_config_files(args.config_path, args.config_name)
    explain_overrides(args.overrides)


def _begin(args: argparse.Namespace) -> Any:
    """The configuration of a run, held to what can be told without torch, whose import takes seconds."""
    from gspo.commands.ready import require_alone, require_ready

    require_alone()
    config = _load(args)
    require_ready(config, args.command)
    return config


def _print_paths(folder: Path) -> None:
    for name, what in (("report.html", "report"), ("huggingface", "model"), ("metrics.jsonl", "metrics")):
        if (folder / name).exists():
            print(f"{what:>8}: {folder / name}")


def _config(args: argparse.Namespace) -> int:
    from gspo.commands.printed import printed_keys
    from gspo.config import notices, render

    explain_overrides(args.overrides, names=True)
    named, args.overrides = without_names(args.overrides)
    config = _load(args)
    keys = printed_keys(config, named, set_only=args.set_only)
    print(render(config, keys, flat=args.flat), end="")
    for line in notices(config):
        print(f"gspo: note: {line}", file=sys.stderr)
    return 0


def _eval(args: argparse.Namespace) -> int:
    from gspo.commands.ready import require_alone, require_ready_to_evaluate

    require_alone()
    require_ready_to_evaluate(args.models, args.data, args.set)
    from gspo.commands.evaluate import evaluate_models

    return evaluate_models(args)


def _compare(args: argparse.Namespace) -> int:
    from gspo.commands.ready import require_alone, writable
    from gspo.config.paths import expanded

    require_alone()
    _explain(args)
    writable(expanded(args.out, "--out"))
    from gspo.commands.compare import compare_command

    return compare_command(args)


def _export(args: argparse.Namespace) -> int:
    from gspo.config import load_config, require_honoured
    from gspo.trainer.exporting import export_checkpoint

    config = load_config(None, None, args.set, external=False)
    read = ("actor_rollout_ref.model.", "trainer.save_hf_dtype")
    if wrong := [key for key in sorted(config.user_set) if not key.startswith(read)]:
        raise ValueError(
            f"--set {wrong[0]} has no effect on an export: keys of actor_rollout_ref.model have, and "
            "trainer.save_hf_dtype"
        )
    require_honoured(config)
    say = lambda line: print(f"gspo: note: {line}", file=sys.stderr)  # noqa: E731 - one line
    print(export_checkpoint(args.source, config, step=args.step, out=args.out, say=say))
    return 0


def _report(args: argparse.Namespace) -> int:
    from gspo.commands.report import report_command

    return report_command(args)


def _samples(args: argparse.Namespace) -> int:
    from gspo.commands.samples import samples_command

    return samples_command(args)


def _quickstart(args: argparse.Namespace) -> int:
    from gspo.commands.ready import require_alone, writable
    from gspo.config.paths import expanded

    require_alone()
    out = writable(expanded(args.out, "--out"))
    if args.gad:
        from gspo.commands.gad_quickstart import gad_quickstart

        return gad_quickstart(out, args.seed)
    from gspo.commands.quickstart import quickstart

    return quickstart(out, args.seed)


if __name__ == "__main__":
    sys.exit(main())
