"""Figures and axis marks as they are shown, written down by hand."""

from __future__ import annotations

import pytest

from gspo.observe.report.numbers import exact, log_ticks, plain, share, ticks


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (0.512, "0.512"),
        (-0.0859, "-0.0859"),
        (0.00012, "0.00012"),
        (1.2e-6, "1.2 × 10⁻⁶"),
        (-3e-12, "-3 × 10⁻¹²"),
        (7.0, "7.00"),
        (143.2, "143"),
        (12_345.0, "12.3k"),
        (4_500_000.0, "4.5M"),
        (2e9, "2.0G"),
        (float("nan"), "not finite"),
    ],
)
def test_a_figure(value: float, text: str) -> None:
    assert plain(value) == text


def test_settings_and_shares() -> None:
    assert [exact(value) for value in (0.2, 3e-4, 1.0, 4e-7)] == ["0.2", "0.0003", "1", "0.0000004"]
    assert [share(value) for value in (0.0, 0.0004, 0.004, 0.5, 0.953, 1.0)] == [
        "0 %",
        "below 0.1 %",
        "0.4 %",
        "50 %",
        "95.3 %",
        "100 %",
    ]


@pytest.mark.parametrize(
    ("ends", "labels", "note"),
    [
        ((0.0, 1.0), ["0.00", "0.25", "0.50", "0.75", "1.00"], ""),
        ((0.0, 0.004), ["0.000", "0.001", "0.002", "0.003", "0.004"], ""),
        ((0.0, 2e-6), ["0.0", "0.5", "1.0", "1.5", "2.0"], "× 10⁻⁶"),
        ((-1e-5, 1e-5), ["-1.0", "-0.5", "0.0", "0.5", "1.0"], "× 10⁻⁵"),
        ((0.9994, 1.0006), ["0.9995", "1.0000", "1.0005"], ""),
        ((0.0, 40_000.0), ["0", "10k", "20k", "30k", "40k"], ""),
    ],
)
def test_marks_of_an_axis(ends: tuple[float, float], labels: list[str], note: str) -> None:
    found = ticks(*ends, 5)
    assert (found.labels, found.note) == (labels, note)


def test_marks_in_per_cent_and_of_steps() -> None:
    assert ticks(0.6, 1.0, 5, percent=True).labels == ["60 %", "70 %", "80 %", "90 %", "100 %"]
    assert ticks(0, 3, 8, whole=True).labels == ["0", "1", "2", "3"]
    assert ticks(1, 2, 8, whole=True).values == [1, 2]


def test_marks_of_a_logarithmic_axis() -> None:
    assert log_ticks(0.0008, 0.3).labels == ["0.001", "0.01", "0.1"]
    assert log_ticks(0.08, 0.4).labels == ["0.1", "0.2"]
