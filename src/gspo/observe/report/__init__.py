"""The report of a run, and the comparison of several: each one HTML file that needs no network."""

from gspo.observe.report.build import build_report, write_report
from gspo.observe.report.comparison import FIGURES, Variant
from gspo.observe.report.comparison_page import build_comparison, cell
from gspo.observe.report.comparison_table import print_comparison
from gspo.observe.report.folder import read_curves

__all__ = [
    "FIGURES",
    "Variant",
    "build_comparison",
    "build_report",
    "cell",
    "print_comparison",
    "read_curves",
    "write_report",
]
