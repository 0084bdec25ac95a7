"""The picture of a plot: where its values lie in the box, and what is read out of it."""

from __future__ import annotations

import math
import re

from gspo.observe.report.drawing import draw, read_out
from gspo.observe.report.plots import Area, Line, Mark, Plot, line_of
from gspo.observe.report.run import Curve


def points(picture: str, kind: str) -> list[list[tuple[float, float]]]:
    """The points of each drawn path of a class, in units of the box: (0, 0) is its upper left, 1000 its other end."""
    paths = re.findall(rf'<path class="{kind}"[^>]* d="([^"]*)"', picture)
    pieces = [piece for path in paths for piece in re.split("M", path.rstrip("Z"))[1:]]
    return [[(float(x), float(y)) for x, y in re.findall(r"([-\d.]+) ([-\d.]+)", piece)] for piece in pieces]


def test_a_line_lies_where_its_values_are() -> None:
    plot = Plot([Line("a", [0, 5, 10], [0.0, 1.0, 0.5])])
    low, high = plot.y_range()
    assert (low, high) == (-0.02, 1.08)
    (found,) = points(draw(plot), "line")
    expected = [(0, 1000 * (high - 0) / (high - low)), (500, 1000 * 0.08 / 1.1), (1000, 1000 * 0.58 / 1.1)]
    assert all(math.dist(one, other) < 0.1 for one, other in zip(found, expected, strict=True))


def test_a_gap_is_not_drawn_over_and_a_lone_point_is_seen() -> None:
    picture = draw(Plot([Line("a", [0, 1, 2, 3, 4, 5, 6], [1.0, 2.0, None, 3.0, None, 4.0, 5.0])]))
    assert [[x for x, _ in piece] for piece in points(picture, "line")] == [[0.0, 166.7], [833.3, 1000.0]]
    assert re.search(r'class="dot"[^>]*d="M500\.0 [\d.]+h0"', picture)


def test_steps_without_a_metric_are_a_gap() -> None:
    steps = (*range(1, 11), *range(200, 211))
    line = line_of(Curve(steps, tuple(1.0 for _ in steps)), "a")
    assert [x for x, y in zip(line.x, line.y, strict=True) if y is None] == [105.0]
    every_tenth = line_of(Curve(tuple(range(0, 100, 10)), (1.0,) * 10), "a")
    assert None not in every_tenth.y


def test_an_area_goes_up_one_edge_and_back_the_other() -> None:
    area = Area("a", [0, 10], [0.0, 0.0], [1.0, 2.0], is_sum=True)
    (found,) = points(draw(Plot([area], from_zero=True)), "stack")
    assert [x for x, _ in found] == [0, 1000, 1000, 0]
    assert found[0][1] > found[1][1]  # 1 lies lower than 2
    assert found[2][1] == found[3][1]
    assert read_out(Plot([area]))["rows"][0]["y"] == [1.0, 2.0]


def test_the_healthy_band_is_cut_at_the_edges() -> None:
    picture = draw(Plot([Line("a", [0, 1], [0.0, 1.0])], band=(0.5, math.inf)))
    (y, height) = re.findall(r'<rect class="band"[^>]* y="([\d.]+)" height="([\d.]+)"', picture)[0]
    assert float(y) == 0
    assert math.isclose(float(height), 1000 * (1.08 - 0.5) / 1.1, abs_tol=0.1)
    assert "band" not in draw(Plot([Line("a", [0, 1], [0.0, 1.0])], band=(2.0, 3.0)))


def test_marks_beyond_the_axis_are_left_out() -> None:
    plot = Plot([Line("a", [1, 10], [0.0, 1.0])], marks=[Mark(1, "first"), Mark(4, "second"), Mark(11, "third")])
    assert re.findall(r'class="mark-name"[^>]*>(\w+)<', draw(plot)) == ["second"]


def test_a_logarithmic_axis() -> None:
    plot = Plot([Line("a", [0, 1, 2], [0.001, 0.01, 0.1])], log=True)
    (found,) = points(draw(plot), "line")
    assert math.isclose(found[1][1], 500, abs_tol=0.1)  # the middle of the powers
    assert ">0.01<" in draw(plot)


def test_one_step_is_drawn_and_names_are_escaped() -> None:
    picture = draw(Plot([Line("<b>", [3], [0.5]), Area("x", [3], [0.0], [1.0])], legend=True))
    assert "&lt;b&gt;" in picture
    assert "nan" not in picture
    assert points(picture, "spread")[0][1][0] == 1000


def test_pale_lines_are_not_read_out() -> None:
    plot = Plot([Line("each", [0], [1.0], pale=True), Line("mean", [0], [2.0])], percent=True, unit="s")
    told = read_out(plot)
    assert [row["name"] for row in told["rows"]] == ["mean"]
    assert (told["percent"], told["unit"], told["title"]) == (True, "s", "step")
