"""Writes the page of all keys: `python -m gspo.config.docs docs/config.md`."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from gspo.config.convert import show, type_name
from gspo.config.fields import Section, children, leaves, type_hints
from gspo.config.method_lines import advantage_table, loss_table
from gspo.config.schema import Config
from gspo.config.sources import preset_names
from gspo.config.usage import key_facts
from gspo.config.verl_keys import TOPICS, Row, rows
from gspo.methods import LOSSES

__all__ = ["make_page"]

_INTRODUCTION = """# Configuration

Every key, made from the schema by `python -m gspo.config.docs docs/config.md`. `gspo config` prints the same for one
run, with what its files and overrides set.

    gspo train --config-path DIR --config-name NAME key=value ...

reads `DIR/NAME.yaml`, or the packaged preset NAME, over the defaults below, and the overrides over that.

A file sets what it wants to change, with nested keys (`algorithm: {adv_estimator: grpo}`) or dotted ones
(`algorithm.adv_estimator: grpo`), and may begin with `defaults: [NAME, ...]`: presets, or files next to it.
Overrides follow Hydra's grammar: `key=value` and `+key=value` set, `~key` goes back to the default, `[a,b]` is a list,
`{a: 1}` a mapping, `null` nothing. `${other.key}` is another key's value. An unknown key is an error.

In a key that is a path a leading `~` is the home folder; other paths are relative to the working folder. Values of keys
of your own that look like secrets (`api_key`, `hf_token`, `password`, in `reward_kwargs` say) are used as they are, and
printed, logged and written to `config.yaml` as `***`; a resumed run needs them again.

"Read by" names the commands in which a key has an effect (`gspo compare` trains). The others say that they do not use
it, or refuse it.
"""

_LOSSES_INTRODUCTION = """\
The values of `actor_rollout_ref.actor.policy_loss`. Clip range (low / high, or one number for both) and aggregation are
those of a run that leaves the keys out. One of your own declares these facts where it is registered:
[CONTRIBUTING](../CONTRIBUTING.md#add-a-policy-loss)."""

_NO_EFFECT_INTRODUCTION = """\
Accepted, and reported at the start of a run: a line for each topic, none for methods that are off. `{a,b}` stands for
each of the two."""

_REFUSED_INTRODUCTION = """\
They would change the result and cannot be honoured. A configuration with them loads, and `gspo config` says so; a run
does not start and names them all at once. Their values that ask for nothing are accepted."""


def make_page() -> str:
    """The page, as Markdown."""
    return "\n".join([_INTRODUCTION, f"Presets: {', '.join(f'`{name}`' for name in preset_names())}.", *_body()]) + "\n"


def _body() -> Iterator[str]:
    for name, kind in children(Config).items():
        yield from _section(kind, name, _line_of(Config, name))
    yield f"\n## Policy losses\n\n{_LOSSES_INTRODUCTION}\n"
    yield from _table(*loss_table())
    yield "\n## Advantages\n\nThe values of `algorithm.adv_estimator`. One of your own declares these facts likewise.\n"
    yield from _table(*advantage_table())
    yield "\n## Other spellings\n"
    aliases = [f"`{alias}` is `{loss.name}`" for loss in LOSSES.values() for alias in loss.aliases]
    yield f"`policy_loss: gspo` is `policy_loss: {{loss_mode: gspo}}`, and {', '.join(aliases)}.\n"
    yield from _table(
        ("Also written", "Key"), [(_code(row.pattern), _spelling(row)) for row in rows() if row.kind == "is"]
    )
    yield f"\n## verl's keys without effect\n\n{_NO_EFFECT_INTRODUCTION}\n"
    by_topic = [(TOPICS[topic][0], row) for topic in TOPICS for row in _of_kind("none") if row.argument == topic]
    without = [(topic, _code(row.pattern), row.reason) for topic, row in by_topic]
    yield from _table(("Topic", "Key, and all beneath it", "Why"), without)
    yield f"\n## verl's keys that are refused\n\n{_REFUSED_INTRODUCTION}\n"
    refused = [(_code(row.pattern), _accepted(row), row.reason) for row in _of_kind("refused")]
    yield from _table(("Key, and all beneath it", "Accepted", "Why, and what to do"), refused)
    yield "\n## verl's values that are refused\n\nOf keys that both have, likewise.\n"
    values = [(_code(row.pattern), _code(row.argument), row.reason) for row in _of_kind("value")]
    yield from _table(("Key", "Values", "Why, and what to do"), values)


def _of_kind(kind: str) -> list[Row]:
    return [row for row in rows() if row.kind == kind]


def _code(text: str) -> str:
    return f"`{text}`"


def _spelling(row: Row) -> str:
    target, *_ = row.argument.split(", ")
    return _code(target)


def _accepted(row: Row) -> str:
    return ", ".join(map(_accepted_part, row.argument.split(", ")))


def _accepted_part(part: str) -> str:
    if part.startswith("= "):
        return f"the value of `{part.removeprefix('= ')}`"
    return f"any with `{part.removeprefix('if ')}=true`" if part.startswith("if ") else _code(part)


def _section(kind: type[Section], key: str, line: str) -> Iterator[str]:
    yield f"\n## {key}\n\n{line}" + ("\n" if leaves(kind) else "")
    rows: list[tuple[str, ...]] = []
    for name, spec in leaves(kind).items():
        leaf = key_facts()[f"{key}.{name}"]
        choices = spec.metadata["choices"]
        expected = ", ".join(choices) if choices else type_name(type_hints(kind)[name])
        default, readers = f"`{show(_default(kind, name))}`", ", ".join(leaf.read_by)
        rows.append((f"`{name}`", expected, default, readers, spec.metadata["line"]))
    if rows:
        yield from _table(("Key", "Values", "Default", "Read by", "Meaning"), rows)
    for name, child in children(kind).items():
        yield from _section(child, f"{key}.{name}", _line_of(kind, name))


def _line_of(kind: type[Section], name: str) -> str:
    return str(kind.__dataclass_fields__[name].metadata["line"])


def _default(kind: type[Section], name: str) -> Any:
    return getattr(kind(), name)


def _table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    yield f"| {' | '.join(header)} |"
    yield f"|{'---|' * len(header)}"
    for row in rows:
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |"


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m gspo.config.docs FILE")
    Path(sys.argv[1]).write_text(make_page(), encoding="utf-8")
