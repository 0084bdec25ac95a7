"""Which of verl's example scripts train here: their overrides, given to `gspo train` as they are written.

A shell variable has a stand-in: what scripts of that kind put there, else verl's default. Without arguments the table
of all scripts is printed; `--write` puts it into docs/from_verl.md, and `--check` fails where the page has another. All
three fail where a script does not load, or where verl's whole configuration does not start.

    python benchmarks/verl_scripts.py --write docs/from_verl.md
    python benchmarks/verl_scripts.py --check docs/from_verl.md
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml
from omegaconf import OmegaConf

from gspo.config import Config, ConfigError, load_config, require_supported

__all__ = ["Verdict", "judge", "scripts", "table", "whole_configuration"]

_FACTS = Path(__file__).parent / "verl"
_BEGIN, _END = "<!-- begin: made by benchmarks/verl_scripts.py -->", "<!-- end -->"

# What scripts put into shell variables, by the end of the key; the longest end counts. Of what has no effect here,
# anything would do.
_STAND_INS: Mapping[str, str] = {
    "model.path": "some/model",
    "data.train_files": "data/train.parquet",
    "data.val_files": "data/test.parquet",
    "data.custom_cls.path": "own_dataset.py",
    "data.max_response_length": "8192",
    "data.gen_batch_size": "1",
    "lora_rank": "32",
    "lora.rank": "32",
    "lora_adapter_path": "some/adapter",
    "router_replay.mode": "R3",
    "enable_rollout_routing_replay": "True",
    "override_config.max_position_embeddings": "32768",
    "apply_chat_template_kwargs.enable_thinking": "False",
    "apply_chat_template_kwargs.reasoning_effort": "medium",
    "policy_loss.tau_pos": "1.0",
    "policy_loss.tau_neg": "1.05",
    "overlong_buffer_cfg.enable": "True",
    "overlong_buffer_cfg.len": "4096",
    "overlong_buffer_cfg.penalty_factor": "1.0",
    "reward_kwargs.max_resp_len": "8192",
    "optim.min_lr": "0.0",
    "rollout.name": "vllm",
    "rollout.n": "8",
    "rollout.prompt_length": "${data.max_prompt_length}",
    "rollout.response_length": "${data.max_response_length}",
    "rollout.val_kwargs.temperature": "1.0",
    "rollout_correction.rollout_is": "token",
    "rollout_correction.rollout_rs": "token_k1",
    "rollout_correction.rollout_rs_threshold": "2.0",
    "ppo_micro_batch_size_per_gpu": "1",
    "use_dynamic_bsz": "True",
}
# Variables that say what a script is about; a script's folder says so too.
_BY_FOLDER: Mapping[str, Mapping[str, str]] = {
    "algorithm.adv_estimator": {
        "otb_trainer": "optimal_token_baseline",
        "reinforce_plus_plus_trainer": "reinforce_plus_plus",
        "ppo_trainer": "gae",
        "rollout_correction": "rloo",
        "": "grpo",
    },
    "actor_rollout_ref.actor.policy_loss.loss_mode": {"dppo_trainer": "dppo_tv", "": "gspo"},
}
# A script that sets it has rows with images, which are refused when the data is read.
_IMAGES = "data.image_key"
_NO_DEFAULT = ("", "null", "{}", "[]", "???")


@dataclass(frozen=True)
class Verdict:
    """What becomes of a script.

    Attributes:
        script: its path in verl's examples.
        config: what it loads as; None where it does not load.
        refused: why it does not start, a line for each reason; empty where it trains.
    """

    script: str
    config: Config | None
    refused: tuple[str, ...]


@cache
def _lines(name: str) -> list[list[str]]:
    text = (_FACTS / name).read_text(encoding="utf-8")
    return [line.split("\t") for line in text.splitlines() if not line.startswith("#")]


@cache
def _defaults() -> dict[str, str]:
    return {line[0]: line[1] for line in _lines("defaults.tsv")}


@cache
def scripts() -> dict[str, list[str]]:
    """Each script's overrides, as a shell would deliver them."""
    names = {line[0]: line[1] for line in _lines("scripts.tsv") if len(line) == 2}
    found: dict[str, list[str]] = {name: [] for name in names.values()}
    for prefix, key, value, numbers in (line for line in _lines("scripts.tsv") if len(line) == 4):
        for number in numbers.split():
            script = names[number]
            found[script].append(f"{prefix}{key}={_written(value, key, script)}")
    return found


def _written(value: str, key: str, script: str) -> str:
    """A value as the shell gives it: without its own signs, with stand-ins for variables."""
    if "$" in value:
        return _stand_in(key, script)
    value = value.replace("\\", "")
    return value.strip('"') if value.count('"') % 2 else value


def _stand_in(key: str, script: str) -> str:
    if key in _BY_FOLDER:
        choices = _BY_FOLDER[key]
        return choices.get(script.partition("/")[0], choices[""])
    ends = [end for end in _STAND_INS if key == end or key.endswith(f".{end}")]
    if ends:
        return _STAND_INS[max(ends, key=len)]
    default = _defaults().get(key, "")
    return "1" if default in _NO_DEFAULT or "${" in default else default


def judge(script: str) -> Verdict:
    """Loads a script's overrides and checks what a run checks before it reads anything."""
    try:
        config = load_config(overrides=scripts()[script])
    except ConfigError as error:
        return Verdict(script, None, (str(error),))
    images = (
        (f"{_IMAGES}: rows with images are refused when they are read: train on rows of texts",)
        if _IMAGES in config.user_set
        else ()
    )
    try:
        require_supported(config)
    except ConfigError as error:
        lines = str(error).splitlines()
        return Verdict(script, config, (*images, *(line.strip() for line in (lines[1:] or lines))))
    return Verdict(script, config, images)


def whole_configuration() -> dict[str, Any]:
    """verl's default configuration as a tree, with `${...}` as in its file."""
    tree = OmegaConf.create()
    for key, value in _defaults().items():
        OmegaConf.update(tree, key, yaml.safe_load(value), force_add=True)
    plain = OmegaConf.to_container(tree, resolve=False)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def _whole_problems() -> Iterator[str]:
    """Why verl's whole configuration does not start; nothing where it does."""
    with TemporaryDirectory() as folder:
        (Path(folder) / "whole.yaml").write_text(yaml.safe_dump(whole_configuration()), encoding="utf-8")
        try:
            require_supported(load_config(folder, "whole"))
        except ConfigError as error:
            yield f"verl's default configuration: {error}"


def table(verdicts: Sequence[Verdict]) -> str:
    """The verdicts as a Markdown table, with how many train above it."""
    train = sum(not verdict.refused for verdict in verdicts)
    loaded = sum(verdict.config is not None for verdict in verdicts)
    lines = [
        f"{loaded} of {len(verdicts)} scripts load, {train} of them train.",
        "",
        "| Script of `examples/` | Trains here | Refused for |",
        "|---|---|---|",
    ]
    reasons: dict[str, list[str]] = {}  # to the settings that are refused for it
    for verdict in verdicts:
        found = [_parts(line) for line in verdict.refused]
        for setting, reason in found:
            reasons.setdefault(reason, []).append(setting)
        settings = ", ".join(f"`{setting}`" for setting, _ in found)
        lines.append(f"| `{verdict.script}` | {'no' if verdict.refused else 'yes'} | {settings} |")
    lines += ["", "| Setting | Why it is refused, and what to do |", "|---|---|"]
    for reason, found_settings in reasons.items():
        lines.append(f"| {', '.join(f'`{setting}`' for setting in dict.fromkeys(found_settings))} | {reason} |")
    return "\n".join(lines)


def _parts(line: str) -> tuple[str, str]:
    """The setting of a line, and the reason."""
    setting, _, reason = line.partition(": ")
    return setting, reason


def _with_table(page: str, made: str) -> str:
    before, begin, rest = page.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not (begin and end):
        raise ValueError(f"the page needs the lines {_BEGIN} and {_END}, between which the table goes")
    return f"{before}{begin}\n{made}\n{end}{after}"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; its exit code is 1 where a script does not load or a page has another table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the table into a page")
    parser.add_argument("--check", type=Path, metavar="PAGE", help="compare it with the table of a page")
    args = parser.parse_args(arguments)
    verdicts = [judge(script) for script in scripts()]
    made = table(verdicts)
    problems = [f"{verdict.script}: {verdict.refused[0]}" for verdict in verdicts if verdict.config is None]
    problems += _whole_problems()
    if args.write:
        args.write.write_text(_with_table(args.write.read_text(encoding="utf-8"), made), encoding="utf-8")
    elif args.check:
        page = args.check.read_text(encoding="utf-8")
        if page != _with_table(page, made):
            problems.append(
                f"{args.check} has another table: run python benchmarks/verl_scripts.py --write {args.check}"
            )
    else:
        print(made)
    for problem in problems:
        print(problem, file=sys.stderr)
    train = sum(not verdict.refused for verdict in verdicts)
    print(f"{len(verdicts)} scripts, {train} train here, {len(problems)} problems")
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
