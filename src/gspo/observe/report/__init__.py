"""The report of a run: one HTML file that needs no network."""

from gspo.observe.report.build import build_report

__all__ = ["build_report"]
