"""The pages in docs/ and the README are true: commands parse, keys exist, links resolve, metrics are explained."""

from __future__ import annotations

import argparse
import json
import re
import shlex
from collections.abc import Callable, Iterator
from importlib import import_module
from itertools import product
from pathlib import Path

import pytest

from gspo.cli import _parser, main
from gspo.commands.arguments import without_names
from gspo.commands.printed import printed_keys
from gspo.config import load_config
from gspo.config.settings import known_keys, section_keys
from gspo.config.verl_keys import is_namespace, row_of, table
from gspo.methods import SEQUENCE_BAND, TOKEN_BAND
from gspo.observe.report.meanings import MEANINGS
from gspo.observe.watch import RULES

REPOSITORY = Path(__file__).parent.parent
PAGES = sorted([*(REPOSITORY / "docs").rglob("*.md"), REPOSITORY / "README.md"])
METRICS_PAGE = REPOSITORY / "docs" / "metrics.md"

_ROOTS = "actor_rollout_ref|algorithm|critic|custom_reward_function|data|reward|trainer"
_KEY = re.compile(rf"(?:{_ROOTS})(?:\.[a-z_0-9]+)+")
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_CONFIGURED = ("train", "sft", "config", "compare")  # the commands that take a configuration
_CODE_SPAN = re.compile(r"`([^`\n]+)`")


def page_name(page: Path) -> str:
    return str(page.relative_to(REPOSITORY))


def text_and_code(page: Path) -> tuple[str, list[str]]:
    """The prose of a page, and the lines of its code blocks, fenced or indented; continued lines are joined."""
    prose, code, fenced = [], [], False
    for line in page.read_text(encoding="utf-8").replace("\\\n", " ").splitlines():
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif fenced or line.startswith("    "):
            code.append(line.strip())
        else:
            prose.append(line)
    return "\n".join(prose), code


def commands(page: Path) -> Iterator[list[str]]:
    """The arguments of every `gspo` command in the page's code blocks."""
    for line in text_and_code(page)[1]:
        words = line.removeprefix("$ ").replace("python -m gspo.trainer.main_ppo", "gspo train")
        words = re.sub(r"^([A-Z_]+=\S+ )*(\.venv/bin/)?", "", words)
        if words.startswith("gspo "):
            yield shlex.split(re.split(r" (?:\||&&|>|2>) ?", words)[0], comments=True)[1:]


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_commands_parse_and_their_keys_load(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)  # the pages name files of the user's own by their place in the repository
    for words in commands(page):
        try:
            args = _parser().parse_args(words)
        except SystemExit:
            pytest.fail(f"{page_name(page)}: gspo {shlex.join(words)}")
        if (
            args.command in ("train", "sft", "config", "compare")
            and "..." not in args.overrides
            and args.config_name != "NAME"
        ):
            names, overrides = without_names(args.overrides)
            assert args.command == "config" or not names
            printed_keys(load_config(args.config_path, args.config_name, overrides), names, set_only=False)


_MOST_STEPS = 10
_DURATION = re.compile(r"\b(seconds?|minutes?|hours?|days?)\b")


def long_commands(page: Path) -> Iterator[str]:
    """The commands that train for as long as the data lasts, where no duration stands near by."""
    lines = page.read_text(encoding="utf-8").replace("\\\n", " ").splitlines()
    for number, line in enumerate(lines):
        found = re.match(r"\s+(?:\$ )?(?:\.venv/bin/)?gspo (train|sft|compare) ", line)
        if found is None or "NAME" in line or "..." in line:
            continue
        steps = re.search(r"trainer\.total_training_steps=(\d+)", line)
        is_short = "trainer.val_only=true" in line or (steps is not None and int(steps[1]) <= _MOST_STEPS)
        if not is_short and not _DURATION.search(" ".join(lines[max(0, number - 6) : number + 14])):
            yield line.strip()


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_a_command_is_short_enough_to_be_tried_or_its_duration_is_said(page: Path) -> None:
    assert list(long_commands(page)) == []


def test_a_command_without_steps_and_duration_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A\n\n    gspo train a=1 \\\n        b=2\n    gspo train trainer.total_training_steps=2\n")
    assert list(long_commands(page)) == ["gspo train a=1          b=2"]
    page.write_text("# A\n\n    gspo train a=1\n\nThis takes an hour.\n")
    assert list(long_commands(page)) == []


def test_the_pages_have_commands() -> None:
    assert sum(len(list(commands(page))) for page in PAGES) > 15


def _subcommands() -> set[str]:
    actions = [action for action in _parser()._actions if isinstance(action, argparse._SubParsersAction)]
    return set(actions[0].choices)


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_commands_named_in_the_text_exist(page: Path) -> None:
    named = {span.split()[1] for span in _CODE_SPAN.findall(text_and_code(page)[0]) if span.startswith("gspo ")}
    assert named - _subcommands() - {"COMMAND"} == set()


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_keys_named_in_the_text_exist(page: Path) -> None:
    """Keys in code spans, with or without a value behind them; also the old spellings and verl's own."""
    unknown = []
    for span in _CODE_SPAN.findall(text_and_code(page)[0]):
        found = _KEY.match(span)
        if found is None or span[found.end() : found.end() + 1] not in ("", "="):
            continue
        key = found[0]
        known = key in known_keys() or key in section_keys() or key in table().moved or is_namespace(key)
        if not known and row_of(key) is None:
            unknown.append(key)
    assert unknown == []


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_files_named_in_the_text_exist(page: Path) -> None:
    named = re.findall(r"`((?:tests|src|docs)/[\w/.-]+)`", text_and_code(page)[0])
    assert [path for path in named if not (REPOSITORY / path).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_modules_and_names_in_the_text_exist(page: Path) -> None:
    package = REPOSITORY / "src" / "gspo"
    prose = text_and_code(page)[0]
    files = [path for path in re.findall(r"`([\w/]+\.py)`", prose) if (package / path).parent != package]
    rooms = {path.name for path in package.iterdir() if path.is_dir()}
    gone = [path for path in files if path.partition("/")[0] in rooms and not (package / path).exists()]
    assert gone == []
    assert [name for name in re.findall(r"`(gspo(?:\.\w+)+)", prose) if not _is_there(name)] == []


def _is_there(name: str) -> bool:
    """Whether a dotted name is a module, or what stands in one."""
    parts = name.split(".")
    for size in range(len(parts), 0, -1):
        try:
            found: object = import_module(".".join(parts[:size]))
        except ImportError:
            continue
        for part in parts[size:]:
            if not hasattr(found, part):
                return False
            found = getattr(found, part)
        return True
    return False


def _anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_links_resolve(page: Path) -> None:
    broken = []
    for target in _LINK.findall(text_and_code(page)[0]):
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        if target.startswith(("http://", "https://", "mailto:")):
            continue
        if not file.exists() or (anchor and anchor not in _anchors(file)):
            broken.append(target)
    assert broken == []


def test_every_page_is_reached_from_the_index() -> None:
    index = REPOSITORY / "docs" / "index.md"
    linked = {(index.parent / target).resolve() for target in _LINK.findall(index.read_text(encoding="utf-8"))}
    assert {page for page in PAGES if page.parent != REPOSITORY} - linked == {index}


# Metrics.


def metric_rows() -> dict[str, str]:
    """First cell, without its backticks, to the rest of the row, of every table row that begins with a metric."""
    rows = re.findall(r"^\| `([^`]+/[^`]+)` \|(.*)\|$", METRICS_PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(rows) == len(dict(rows)), "a metric has two rows"
    return dict(rows)


def expanded(pattern: str) -> Iterator[str]:
    """`a/{x,y}` as `a/x` and `a/y`; placeholders such as `{source}` stay."""
    parts = re.split(r"\{([^{}]*,[^{}]*)\}", pattern)
    choices = [part.split(",") if number % 2 else [part] for number, part in enumerate(parts)]
    return ("".join(chosen) for chosen in product(*choices))


def matcher(name: str) -> re.Pattern[str]:
    """A documented name as an expression; numbers for {N} and {k}, any text for other placeholders."""
    pieces = re.split(r"\{(\w+)\}", name)
    kinds = {"N": r"\d+", "k": r"\d+"}
    return re.compile(
        "".join(kinds.get(piece, ".+") if number % 2 else re.escape(piece) for number, piece in enumerate(pieces))
    )


DOCUMENTED = [name for pattern in metric_rows() for name in expanded(pattern)]

_RUNS = {
    "gspo": ["train", "actor_rollout_ref.actor.policy_loss=gspo"],
    "one step per rollout, unknown accuracy": [
        "train",
        "actor_rollout_ref.actor.ppo_mini_batch_size=4",
        "reward.functions=[{name: custom}, {name: format}]",
        "reward.overlong_buffer.enable=true",
        "reward.overlong_buffer.len=2",
    ],
    "divergence twice, several answers": [
        "train",
        "actor_rollout_ref.actor.policy_loss=ppo",
        "actor_rollout_ref.actor.use_kl_loss=true",
        "algorithm.use_kl_in_reward=true",
        "actor_rollout_ref.actor.entropy_coeff=0.01",
        "actor_rollout_ref.rollout.val_kwargs.n=4",
        "actor_rollout_ref.rollout.val_kwargs.do_sample=true",
        "actor_rollout_ref.rollout.val_kwargs.temperature=1.0",
    ],
    "corrected and filtered": [
        "train",
        "algorithm.rollout_correction.rollout_is=token",
        "algorithm.rollout_correction.rollout_rs=token_k1",
        "algorithm.rollout_correction.rollout_rs_threshold=2.0",
        "algorithm.filter_groups.enable=true",
    ],
    "critic": ["train", "actor_rollout_ref.actor.policy_loss=ppo", "algorithm.adv_estimator=gae"],
    "distillation": [
        "train",
        "critic.enable=true",
        "data.teacher_key=answer",
        "trainer.gad_warmup_steps=1",
        "trainer.critic_warmup=1",
        "actor_rollout_ref.actor.use_kl_loss=true",
    ],
    "sft": ["sft"],
}


@pytest.mark.parametrize("name", _RUNS)
def test_every_logged_metric_is_explained(
    name: str, run_overrides: Callable[..., list[str]], tiny_data: Path, tmp_path: Path
) -> None:
    command, *further = _RUNS[name]
    assert main([command, *run_overrides(f"data.val_files={tiny_data / 'test.jsonl'}", *further)]) == 0
    lines = (tmp_path / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    logged = {key for line in lines for key in json.loads(line)} - {"step"}
    matchers = [matcher(name) for name in DOCUMENTED]
    assert sorted(key for key in logged if not any(known.fullmatch(key) for known in matchers)) == []


def test_every_explained_metric_is_in_the_source() -> None:
    """The last fixed part of each documented name occurs in the package, so that none outlives its metric."""
    source = "\n".join(path.read_text(encoding="utf-8") for path in (REPOSITORY / "src").rglob("*.py"))
    for pattern in metric_rows():
        fixed = [part for part in re.split(r"[/{},@]", pattern) if part]
        names = [part for part in fixed if part not in ("mean", "max", "min", "N", "k", "source", "option")]
        missing = [part for part in names if part not in source]
        assert missing == [], pattern


def test_bands_are_those_of_the_report() -> None:
    rows = {name: rest for pattern, rest in metric_rows().items() for name in expanded(pattern)}
    for name, meaning in MEANINGS.items():
        if name == "held-out":
            continue
        assert name in rows
        of_clips = {"actor/pg_clipfrac": (TOKEN_BAND, SEQUENCE_BAND), "actor/seq_clipfrac": (SEQUENCE_BAND,)}
        for band in filter(None, of_clips.get(name, (meaning.band,))):
            assert str(band) in rows[name], name
            for limit in (band.ceiling, -band.floor):
                if limit not in (float("inf"), float("-inf")):
                    assert re.search(rf"(above|beyond) {limit:g}\b", rows[name]), name


def test_the_warnings_of_a_run_are_those_of_its_rules() -> None:
    page = (REPOSITORY / "docs" / "training.md").read_text(encoding="utf-8")
    rows = [f"| {rule.name} | {rule.when} | {', '.join(f'`{key}`' for key in rule.keys)} |" for rule in RULES]
    assert "\n".join(rows) in page
    assert {key for rule in RULES for key in rule.keys} <= known_keys().keys()
