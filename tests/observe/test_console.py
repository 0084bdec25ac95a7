"""The terminal view: exact plain lines, and what a person reads on a terminal."""

import io
import math

import pytest
from rich.console import Console

from gspo.observe.console import ConsoleLogger
from gspo.observe.sparkline import duration, quantity, sparkline

METRICS = {
    "critic/score/mean": 0.5,
    "response_length/mean": 120.4,
    "actor/entropy": 1.25,
    "actor/pg_clipfrac": 0.15,
    "actor/ppo_kl": 1.234e-4,
    "actor/grad_norm": 0.75,
    "timing_s/step": 4.0,
    "timing_s/gen": 3.0,
    "timing_s/update_actor": 0.8,
    "perf/throughput": 12345.0,
}


def plain() -> tuple[io.StringIO, Console]:
    out = io.StringIO()
    return out, Console(file=out, width=40)


def terminal() -> tuple[io.StringIO, Console]:
    out = io.StringIO()
    return out, Console(file=out, force_terminal=True, width=100, height=60, color_system=None, _environ={})


def test_plain_view_is_one_line_a_step_without_control_characters() -> None:
    out, console = plain()
    with ConsoleLogger(100, {"model": "tiny [1 M]", "run": "runs/a"}, console) as view:
        view.log({"val-core/gsm8k/acc/mean@1": 0.125}, 0)
        view.log(METRICS, 1)
        view.notice("checkpoint [red]saved[/] in runs/a/step_1")
        view.log({**METRICS, "val-core/gsm8k/acc/mean@1": 0.25}, 2)
    line = (
        "step {}/100  reward    0.500  len      120  ent    1.250  clip    0.150  kl  1.2e-04  grad    0.750"
        "  time    4.0s  tok/s    12.3k  left {}"
    )
    assert out.getvalue().split("\n") == [
        "model: tiny [1 M]",
        "run: runs/a",
        "step   0/100  held-out gsm8k 0.125",
        line.format("  1", " 6m 36s"),
        "checkpoint [red]saved[/] in runs/a/step_1",
        line.format("  2", " 6m 32s") + "  held-out gsm8k 0.250",
        "",
    ]
    assert all(character.isprintable() or character == "\n" for character in out.getvalue())


def test_live_view_shows_progress_time_and_curves() -> None:
    out, console = terminal()
    with ConsoleLogger(4, {"model": "tiny"}, console) as view:
        for step in (1, 2):
            view.log({**METRICS, "critic/score/mean": step / 2, "val-core/a[b]/acc/mean@4": 0.5}, step)
        view.notice("saved [1]")
        view.phase("gen")
    shown = out.getvalue()
    last = shown[shown.rindex("╭─ training") :]
    assert "step 2/4" in last
    assert "50 %   time left 8.0s" in last
    assert "4.0s a step, 12.3k tokens/s" in last
    assert "gen 75 %  update_actor 20 %  other 5 %" in last
    assert "━" * 15 + "━" * 4 + "━" in last
    rows = [line.strip("│ \n").split() for line in last.splitlines()]
    assert ["reward", "1.000", "▁█"] in rows
    assert ["held-out", "a[b]", "0.500", "▁▁"] in rows
    assert ["KL", "to", "old", "policy", "1.2e-04", "▁▁"] in rows
    assert "• saved [1]" in shown
    assert shown.rstrip().endswith("\x1b[?25h")  # the cursor is back


def test_live_view_gives_the_terminal_back_when_an_exception_passes() -> None:
    out, console = terminal()
    view = ConsoleLogger(4, {}, console)
    with pytest.raises(RuntimeError, match="no memory"), view:
        raise RuntimeError("no memory")
    assert out.getvalue().rstrip().endswith("\x1b[?25h")
    assert "the first step is under way" in out.getvalue()
    view.close()


def test_sparkline_scales_averages_and_leaves_blanks() -> None:
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7], 8) == "▁▂▃▄▅▆▇█"
    assert sparkline([0, 0, 7, 7], 2) == "▁█"
    assert sparkline([1.0, math.nan, 2.0], 3) == "▁ █"
    assert sparkline([0.1] * 7, 3) == "▁▁▁"
    assert sparkline([math.nan], 3) == " "
    assert sparkline([], 3) == ""


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0s"),
        (9.96, "10s"),
        (42.4, "42s"),
        (200, "3m 20s"),
        (7505, "2h 05m"),
        (97200, "1d 03h"),
        (math.inf, "-"),
    ],
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0.000"),
        (-0.5123, "-0.512"),
        (0.00123, "0.0012"),
        (3e-4, "3.0e-04"),
        (12.34, "12.3"),
        (143.4, "143"),
        (12345, "12.3k"),
        (4.5e6, "4.5M"),
        (2e9, "2.0G"),
        (math.nan, "nan"),
    ],
)
def test_quantity(value: float, text: str) -> None:
    assert quantity(value) == text
    assert len(quantity(-abs(value))) <= 8
