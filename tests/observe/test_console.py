"""The terminal view: exact plain lines, and what a person reads on a terminal."""

import io
import math
import re
import threading
from queue import Queue

import pytest
from messages import names
from rich.console import Console

from gspo.observe import heartbeat
from gspo.observe.console import ConsoleLogger
from gspo.observe.heartbeat import Heartbeat
from gspo.observe.sparkline import duration, quantity, sparkline
from gspo.observe.timeleft import TimeLeft

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


def test_what_is_outside_of_a_step_has_seconds_of_its_own_and_shares_are_of_the_step() -> None:
    """Validation took ten times as long as the step."""
    out, console = terminal()
    with ConsoleLogger(4, {}, console) as view:
        view.saved(2.0)
        view.log({**METRICS, "timing_s/testing": 39.0}, 1)
    last = out.getvalue()[out.getvalue().rindex("╭─ training") :]
    assert "testing 39s; save_checkpoint 2.0s" in last
    shares = [int(share) for share in re.findall(r"(\d+) %", last.partition("tokens/s")[2])]
    assert shares == [75, 20, 5]
    out, console = plain()
    with ConsoleLogger(4, {}, console) as view:
        view.log({**METRICS, "timing_s/testing": 39.0}, 1)
        view.saved(2.0)
        view.log({**METRICS}, 2)
        view.saved(0.1)
        view.log({**METRICS}, 3)
    ends = [line.partition("left")[2].split()[1:] for line in out.getvalue().splitlines()]
    assert ends == [["testing", "39s"], ["save_checkpoint", "2.0s"], []]


@pytest.mark.parametrize("phases", [3, 7])
def test_shares_of_any_step_sum_to_a_hundred(phases: int) -> None:
    out, console = terminal()
    with ConsoleLogger(4, {}, console) as view:
        view.log({"timing_s/step": 1.0, **{f"timing_s/p{number}": 1 / phases for number in range(phases)}}, 1)
    last = out.getvalue()[out.getvalue().rindex("╭─ training") :]
    assert sum(int(share) for share in re.findall(r"  \w+ (\d+) %", last.partition("a step")[2])) == 100


def test_a_discriminator_is_shown() -> None:
    out, console = plain()
    with ConsoleLogger(9, {}, console) as view:
        view.log({"critic/d_acc": 0.75, "critic/d_loss": 0.4}, 1)
    assert out.getvalue() == "step 1/9  d_acc    0.750  d_loss    0.400\n"


def test_the_time_left_is_said_after_the_first_steps_of_a_long_run() -> None:
    out, console = plain()
    with ConsoleLogger(1001, {}, console, test_freq=100) as view:
        for step, seconds in ((1, 200.0), (2, 100.0), (3, 100.0)):
            view.passed({"timing_s/step": seconds, **({"timing_s/testing": 60.0} if step == 1 else {})}, step)
    first, second = out.getvalue().splitlines()
    assert names(first, "2d 07h", "first step", "1000 steps of 3m 20s", "validations", "trainer.total_training_steps")
    assert names(second, "1d 17h", "999 steps of 2m 30s")
    out, console = plain()
    with ConsoleLogger(20, {}, console) as view:
        for step in (1, 2, 3):
            view.passed({"timing_s/step": 1.0}, step)
    assert out.getvalue() == ""


def test_time_left_counts_the_validations_that_are_to_come() -> None:
    left = TimeLeft(10, test_freq=4)
    assert left.seconds is None
    left.add({"timing_s/testing": 30.0}, 0)
    assert left.seconds is None
    left.add({"timing_s/step": 9.0}, 1)
    assert left.seconds == 9 * 9.0 + 3 * 30.0  # after steps 4, 8 and 10
    left.add({"timing_s/step": 9.0}, 1)  # the same row, from another place
    for step in (2, 3):
        left.add({"timing_s/step": 3.0}, step)
    assert left.seconds == 7 * 5.0 + 3 * 30.0
    left.add({"timing_s/step": 3.0, "timing_s/testing": 20.0}, 4)  # from here on the first step does not count
    assert left.seconds == 6 * 3.0 + 2 * 20.0
    for step in range(5, 11):
        left.add({"timing_s/step": 3.0}, step)
    assert left.seconds == 0.0


def test_a_heartbeat_speaks_after_silence_and_less_often_the_longer_it_lasts() -> None:
    clock = [0.0]
    heart = Heartbeat(print, now=lambda: clock[0])
    heart.phase("load")
    said = {}
    for second in range(120):
        clock[0] = float(second)
        if line := heart.due():
            said[second] = line
    assert list(said) == [10, 25, 48, 78, 108]
    assert said[10] == "loading the model, 10s"
    heart.spoke()  # a notice came in between
    heart.phase("testing")
    heart.count(12, 64)
    clock[0] = 128.0
    assert heart.due() == ""
    clock[0] = 130.0
    assert heart.due() == "validating, 12 of 64 responses, 11s"
    heart.phase("")
    clock[0] = 1000.0
    assert heart.due() == ""


def test_a_heartbeat_leaves_steps_alone_that_take_what_they_take() -> None:
    clock = [0.0]
    heart = Heartbeat(print, now=lambda: clock[0])
    heart.step("step 1 of 9")
    heart.phase("gen")
    clock[0] = 10.0
    assert heart.due() == "step 1 of 9: sampling, 10s"
    heart.spoke()
    heart.usual, heart.left = 100.0, 800.0
    heart.step("step 2 of 9")
    clock[0] = 205.0
    assert heart.due() == ""
    clock[0] = 211.0
    assert heart.due() == "step 2 of 9: sampling, 3m 31s; about 13m 20s left"


def test_a_heartbeat_prints_from_its_thread_and_ends_with_the_view(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, "_FIRST", 0.0)
    monkeypatch.setattr(heartbeat, "_POLL", 0.01)
    said: Queue[str] = Queue()
    with Heartbeat(said.put) as heart:
        heart.phase("export")
        assert said.get(timeout=30).startswith("writing the model")
    assert not any(thread.name == "gspo-heartbeat" for thread in threading.enumerate())


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
