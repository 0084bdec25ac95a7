"""The comparison's figures and page, from made-up run folders whose values are known."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from gspo.observe.report import FIGURES, Variant, build_comparison, cell, read_curves
from gspo.observe.report.comparison_page import comparison_plots
from gspo.observe.report.plots import Area, Plot

ACCURACY = "val-core/{}/acc/mean@1"


def write_run(folder: Path, rows: Sequence[dict[str, float]]) -> Path:
    folder.mkdir(parents=True)
    lines = [json.dumps({"step": step, **row}) + "\n" for step, row in enumerate(rows)]
    (folder / "metrics.jsonl").write_text("".join(lines), encoding="utf-8")
    return folder


def make_rows(scale: float, seconds: float) -> list[dict[str, float]]:
    """Validation before step 1 and after step 2, on two data sources; two steps."""
    steps = [
        {"critic/score/mean": scale * step, "timing_s/step": seconds, "actor/pg_clipfrac": scale * 0.001 * (step - 1)}
        | {"actor/ppo_kl": 0.01 * step, "actor/entropy": 2.0 * scale, "actor/grad_norm": scale * step}
        for step in (1, 2)
    ]
    steps[1] |= {ACCURACY.format("a"): 0.4 * scale, ACCURACY.format("b"): 0.2 * scale}
    return [{ACCURACY.format("a"): 0.1, ACCURACY.format("b"): 0.3}, *steps]


@pytest.fixture
def variants(tmp_path: Path) -> list[Variant]:
    """`one` with two seeds, the second of scale 2 and half as fast, and `two` with one."""
    one = {seed: write_run(tmp_path / f"one-{seed}", make_rows(seed, seed)) for seed in (1, 2)}
    two = {1: write_run(tmp_path / "two-1", make_rows(1, 0.5))}
    return [Variant(name, {s: read_curves(f) for s, f in runs.items()}) for name, runs in (("one", one), ("two", two))]


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("accuracy_start", [0.2, 0.2]),
        ("accuracy_end", [0.3, 0.6]),
        ("reward", [2.0, 4.0]),
        ("steps_per_second", [1.0, 0.5]),
        ("clip_fraction", [0.0005, 0.001]),
        ("kl", [0.015, 0.015]),
        ("entropy", [2.0, 4.0]),
        ("grad_norm", [1.5, 3.0]),
        ("grad_norm_max", [2.0, 4.0]),
    ],
)
def test_figures_means_and_spreads(variants: list[Variant], key: str, values: list[float]) -> None:
    one, two = variants
    assert one.figures(key) == pytest.approx(values)
    assert one.mean(key) == pytest.approx(sum(values) / 2)
    assert one.spread(key) == pytest.approx(abs(values[1] - values[0]) / 2**0.5)
    assert two.spread(key) is None


def test_cells(variants: list[Variant], tmp_path: Path) -> None:
    one, two = variants
    assert cell(one, "accuracy_end") == "45.0 % ± 21.2 %"
    assert cell(two, "accuracy_end") == "30.0 %"
    assert cell(one, "clip_fraction") == "0.075 % ± 0.035 %"
    empty = Variant("empty", {1: read_curves(write_run(tmp_path / "empty", [{}]))})
    assert {cell(empty, key) for key in FIGURES} == {"-"}


def plot_of(variants: list[Variant], title: str) -> Plot:
    return next(plot for name, _, plot in comparison_plots(variants) if name == title)


def shapes_of(plot: Plot) -> dict[str, tuple[Any, ...]]:
    return {s.name: (s.x, s.low, s.high) if isinstance(s, Area) else (s.x, s.y) for s in plot.shapes}


def test_lines_and_bands_per_step(variants: list[Variant]) -> None:
    assert shapes_of(plot_of(variants, "Reward per step")) == {
        "one, least to most": ([1, 2], [1.0, 2.0], [2.0, 4.0]),
        "one": ([1, 2], [1.5, 3.0]),
        "two": ([1, 2], [1.0, 2.0]),
    }
    accuracy = shapes_of(plot_of(variants, "Held-out accuracy per step"))
    assert accuracy["one"] == ([0, 2], [0.2, 0.45])


def test_lines_per_second_run_as_long_as_every_seed(variants: list[Variant]) -> None:
    plot = plot_of(variants, "Held-out accuracy per second of training")
    assert plot.x_title == "seconds of training"
    traces = shapes_of(plot)
    seconds, values = traces["one"]
    assert (seconds[0], seconds[-1]) == (0.0, 2.0)  # seed 1 is done after 2 s, when seed 2 is half way
    assert values[0] == 0.2
    assert values[-1] == pytest.approx((0.3 + 0.4) / 2)
    assert traces["one, least to most"][2][-1] == pytest.approx(0.4)
    assert traces["two"][0][-1] == 1.0


def test_the_clip_fraction_has_a_logarithmic_axis_and_no_zero(variants: list[Variant]) -> None:
    plot = plot_of(variants, "Clip fraction")
    assert plot.log
    assert shapes_of(plot)["two"] == ([1, 2], [None, 0.001])


def test_the_page_needs_no_network_and_shows_the_table(variants: list[Variant], tmp_path: Path) -> None:
    path = build_comparison(tmp_path / "c.html", "one / two", variants, {"one": "a.b=<1>"})
    page = path.read_text(encoding="utf-8")
    assert "default-src 'none'" in page
    assert not re.search(r"<(script|link|img)[^>]+(src|href)=", page)
    assert "a.b=&lt;1&gt;" in page
    table = page.split('<table class="sides">')[1].split("</table>")[0]
    rows = re.findall(r"<tr><td.*?</tr>", table, re.DOTALL)
    cells = [re.findall(r'<td class="figure"[^>]*>(.*?)</td>', row, re.DOTALL) for row in rows]
    figures = [[re.sub(r'<div class="lever">(.*?)</div>', r" \1", text) for text in row] for row in cells]
    assert figures == [[cell(variant, key) for key in FIGURES] for variant in variants]
    charts = re.findall(r"<h3>(.*?)</h3>", page)
    assert charts == [
        "Held-out accuracy per step",
        "Held-out accuracy per second of training",
        "Reward per step",
        "Reward per second of training",
        "Clip fraction",
        "KL",
        "Entropy",
        "Gradient norm",
    ]
    assert page.count('<div class="plot"') == 8
