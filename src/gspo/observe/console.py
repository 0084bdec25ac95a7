"""The terminal view of a run: a live panel for a person, or one plain line a step for a log file."""

from __future__ import annotations

import os
import re
import sys
from collections import defaultdict
from collections.abc import Mapping
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from gspo.observe.heartbeat import Heartbeat
from gspo.observe.metrics import OUTSIDE_STEP
from gspo.observe.sparkline import duration, quantity, sparkline
from gspo.observe.timeleft import TimeLeft

__all__ = ["ConsoleLogger"]

# metric, its name in the panel, its name in a plain line ("" leaves it out)
_CURVES = (
    ("critic/score/mean", "reward", "reward"),
    ("train/loss", "training loss", "loss"),
    ("response_length/mean", "response length", "len"),
    ("response_length/clip_ratio", "cut at the limit", ""),
    ("actor/entropy", "entropy", "ent"),
    ("actor/pg_clipfrac", "clip fraction", "clip"),
    ("actor/seq_clipfrac", "clip, sequences", ""),
    ("actor/ppo_kl", "KL to old policy", "kl"),
    ("actor/grad_norm", "gradient norm", "grad"),
    ("critic/d_acc", "discriminator accuracy", "d_acc"),
    ("critic/d_loss", "discriminator loss", "d_loss"),
)
_HELD_OUT = re.compile(r"val-core/(?P<source>.+)/(acc|reward)/mean@\d+|(?P<loss>val/loss)")
# A run that ends in less than these seconds needs no words about it: after the first step, and after the second.
_LONG, _SHORT = 600.0, 60.0
_LONG_SAVE = 1.0  # seconds of a checkpoint that are worth a word
_TIME_COLORS = ("cyan", "magenta", "yellow")  # one for each named phase; the rest is "other"
_BAR_WIDTH = 20
_VALUE_WIDTH = 8  # of `quantity`


class _View(Console):
    """A console whose reader may go away, as `head` or a closed terminal does: a run of hours goes on without it."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        devnull = os.open(os.devnull, os.O_WRONLY)
        os.dup2(devnull, sys.stdout.fileno())
        os.close(devnull)


class ConsoleLogger:
    """Shows a run while it trains: a logger, and a context manager that leaves the terminal in order.

    On a terminal: a header, then a panel that lives at the bottom, with notices above it. Elsewhere: the header, then
    one aligned line a step, without control characters, and a line about what runs now where nothing was printed for a
    while.
    """

    def __init__(
        self, total_steps: int, header: Mapping[str, str], console: Console | None = None, *, test_freq: int = -1
    ) -> None:
        """Makes the view; nothing is printed before the `with` block.

        Args:
            total_steps: the run's last step.
            header: what trains, as name and text: model, parameters, algorithm, data, run folder.
            console: where to print; standard output by default.
            test_freq: steps between validations, for the time that is left.
        """
        self._total_steps = max(total_steps, 1)
        self._header = dict(header)
        self._console = console or _View(highlight=False)
        self._live: Live | None = None
        self._curves: defaultdict[str, list[float]] = defaultdict(list)
        self._time = TimeLeft(total_steps, test_freq)
        self._heart = Heartbeat(self._print)
        self._latest: dict[str, float] = {}
        self._step = 0
        self._saving = 0.0

    def __enter__(self) -> ConsoleLogger:
        if self._console.is_terminal:
            self._console.print(Panel(self._header_table(), title="[bold]gspo[/]", border_style="cyan", expand=False))
            self._live = Live(get_renderable=self._panel, console=self._console, refresh_per_second=4)
            self._live.start()
        else:
            for name, text in self._header.items():
                self._plain(f"{name}: {text}")
            self._heart.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Leaves the panel as it is and gives the terminal back. May be called again."""
        live, self._live = self._live, None
        self._heart.phase("")
        self._heart.close()
        if live is not None:
            live.stop()

    def notice(self, text: str) -> None:
        """Prints a line of text, above the panel where there is one."""
        if self._live is not None:
            self._console.print(Text("• ", style="yellow") + Text(text))
        else:
            self._plain(text)

    def phase(self, name: str) -> None:
        """Shows what runs now; for `PhaseClock(on_phase=...)`."""
        self._heart.step(f"step {self._step + 1} of {self._total_steps}")
        self._heart.phase(name)

    def count(self, done: int, total: int) -> None:
        """Shows how much of it is done; for `PhaseClock(on_count=...)`."""
        self._heart.count(done, total)

    def passed(self, metrics: Mapping[str, float], step: int) -> None:
        """Takes a step's time up, whether or not its metrics are logged here; says early what is left of the run."""
        self._step = step
        self._time.add(metrics, step)
        num_steps, left, usual = self._time.num_steps, self._time.seconds, self._time.usual
        self._heart.usual, self._heart.left = (usual if num_steps > 1 else None), left
        least = {1: _LONG, 2: _SHORT}.get(num_steps)
        if self._live is not None or left is None or usual is None or least is None or left < least:
            return
        guess = " by the first step, which is often the slowest" if num_steps == 1 else ""
        validations = " and the validations between them" if self._time.validates else ""
        self.notice(
            f"about {duration(left)} left{guess}: {self._total_steps - step} steps of {duration(usual)}{validations} "
            "(trainer.total_training_steps ends a run earlier)"
        )

    def saved(self, seconds: float) -> None:
        """Takes up how long a checkpoint took, for the next step's line."""
        self._latest["timing_s/save_checkpoint"] = self._saving = seconds

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        self._step = step
        self._time.add(metrics, step)
        self._latest.update(metrics)
        for name, value in metrics.items():
            if name in {key for key, _, _ in _CURVES} or _HELD_OUT.fullmatch(name):
                self._curves[name].append(value)
        if self._live is not None:
            self._live.refresh()
        else:
            self._plain(self._line(metrics, step))

    def _plain(self, text: str) -> None:
        self._heart.spoke()
        self._print(text)

    def _print(self, text: str) -> None:
        self._console.print(Text(text), soft_wrap=True)

    def _time_left(self) -> str:
        left = self._time.seconds
        return "-" if left is None else duration(left)

    # The plain view.

    def _line(self, metrics: Mapping[str, float], step: int) -> str:
        digits = len(str(self._total_steps))
        parts = [f"step {step:>{digits}}/{self._total_steps}"]
        for key, _, name in _CURVES:
            if name and key in metrics:
                parts.append(f"{name} {quantity(metrics[key]):>{_VALUE_WIDTH}}")
        if "timing_s/step" in metrics:
            parts.append(f"time {duration(metrics['timing_s/step']):>7}")
        if "perf/throughput" in metrics:
            parts.append(f"tok/s {quantity(metrics['perf/throughput']):>{_VALUE_WIDTH}}")
        if "timing_s/step" in metrics:
            parts.append(f"left {self._time_left():>7}")
        if "timing_s/testing" in metrics:
            parts.append(f"testing {duration(metrics['timing_s/testing'])}")
        if self._saving >= _LONG_SAVE:
            parts.append(f"save_checkpoint {duration(self._saving)}")
        self._saving = 0.0
        for key, value in metrics.items():
            if match := _HELD_OUT.fullmatch(key):
                parts.append(f"held-out {match['source'] or 'loss'} {quantity(value)}")
        return "  ".join(parts)

    # The live view.

    def _header_table(self) -> Table:
        table = Table.grid(padding=(0, 2))
        for name, text in self._header.items():
            table.add_row(f"[dim]{escape(name)}[/]", escape(text))
        return table

    def _panel(self) -> RenderableType:
        progress = Table.grid(padding=(0, 2), expand=True)
        progress.add_column()
        progress.add_column(ratio=1)
        progress.add_column(justify="right")
        doing = self._heart.doing
        now = f"  [dim]{escape(doing)}…[/]" if doing else ""
        progress.add_row(
            f"[bold]step {self._step}/{self._total_steps}[/]",
            ProgressBar(total=self._total_steps, completed=min(self._step, self._total_steps), complete_style="cyan"),
            f"{100 * self._step / self._total_steps:.0f} %   [dim]time left[/] [bold]{self._time_left()}[/]",
        )
        body: list[RenderableType] = [progress, self._time_row(), Text(), self._curve_table()]
        return Panel(Group(*body), title=f"training{now}", title_align="left", border_style="cyan", padding=(1, 2))

    def _time_row(self) -> Text:
        """Seconds of the last step, a bar of where they went, and tokens per second."""
        total = self._latest.get("timing_s/step", 0.0)
        if total <= 0:
            return Text("the first step is under way", style="dim")
        timed = {
            name.removeprefix("timing_s/"): seconds
            for name, seconds in self._latest.items()
            if name.startswith("timing_s/") and name != "timing_s/step"
        }
        within = {name: seconds / total for name, seconds in timed.items() if name not in OUTSIDE_STEP}
        largest = sorted(within.items(), key=lambda phase: -phase[1])[: len(_TIME_COLORS)]
        shares = [
            (name, round(100 * share), color) for (name, share), color in zip(largest, _TIME_COLORS, strict=False)
        ]
        shares.append(("other", 100 - sum(percent for _, percent, _ in shares), "bright_black"))
        bar, words = Text(), Text()
        for name, percent, color in shares:
            if percent >= 1:
                bar.append("━" * round(_BAR_WIDTH * percent / 100), style=color)
                words.append(f"  {name} ", style=color).append(f"{percent} %")
        row = Text(f"{duration(total)} a step")
        if "perf/throughput" in self._latest:
            row.append(f", {quantity(self._latest['perf/throughput'])} tokens/s")
        for name in OUTSIDE_STEP:
            if name in timed:
                row.append(f"; {name} {duration(timed[name])}")
        return row.append("\n") + bar + words

    def _curve_table(self) -> Table:
        table = Table.grid(padding=(0, 2))
        table.add_column(style="dim")
        table.add_column(justify="right", style="bold", min_width=_VALUE_WIDTH)
        table.add_column(style="green")
        width = max(self._console.width - 48, 8)
        matches = [(key, match) for key in self._curves if (match := _HELD_OUT.fullmatch(key))]
        held_out = [(key, f"held-out {match['source'] or 'loss'}") for key, match in matches]
        first, *others = [(key, name) for key, name, _ in _CURVES]
        for key, name in [first, *held_out, *others]:
            if values := self._curves.get(key):
                table.add_row(escape(name), quantity(values[-1]), sparkline(values, width))
        return table
