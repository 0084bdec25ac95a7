"""The comparison's figures as a table for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from gspo.observe.report.comparison import FIGURES, Variant
from gspo.observe.report.comparison_page import cell

__all__ = ["print_comparison"]

# Wide enough for the table where the output is no terminal.
_PLAIN_WIDTH = 180


def print_comparison(variants: Sequence[Variant], title: str) -> None:
    """Prints a row for each variant and a column for each figure that some variant has."""
    table = Table(title=title)
    table.add_column("variant")
    keys = [key for key in FIGURES if any(variant.figures(key) for variant in variants)]
    for key in keys:
        table.add_column(FIGURES[key].label, justify="right")
    for variant in variants:
        table.add_row(variant.name, *(cell(variant, key) for key in keys))
    console = Console()
    Console(width=console.width if console.is_terminal else _PLAIN_WIDTH).print(table)
