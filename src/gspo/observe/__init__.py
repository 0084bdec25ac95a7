"""What a run shows of itself: metrics, loggers, the terminal view, samples and the report.

The names are loaded when they are first used: `gspo report` needs no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gspo.lazy import lazy_names

if TYPE_CHECKING:
    from gspo.observe.console import ConsoleLogger
    from gspo.observe.cores import CoreClock
    from gspo.observe.heartbeat import Heartbeat
    from gspo.observe.loggers import JsonlLogger, Logger, TensorboardLogger, Tracker, WandbLogger, make_tracker
    from gspo.observe.metrics import PhaseClock, batch_metrics, throughput_metrics
    from gspo.observe.report import build_report
    from gspo.observe.samples import SampleWriter
    from gspo.observe.watch import Facts, Watch

__all__ = [
    "ConsoleLogger",
    "CoreClock",
    "Facts",
    "Heartbeat",
    "JsonlLogger",
    "Logger",
    "PhaseClock",
    "SampleWriter",
    "TensorboardLogger",
    "Tracker",
    "WandbLogger",
    "Watch",
    "batch_metrics",
    "build_report",
    "make_tracker",
    "throughput_metrics",
]

__getattr__ = lazy_names(
    __name__,
    {
        "ConsoleLogger": "console",
        "CoreClock": "cores",
        "Facts": "watch",
        "Heartbeat": "heartbeat",
        "JsonlLogger": "loggers",
        "Logger": "loggers",
        "PhaseClock": "metrics",
        "SampleWriter": "samples",
        "TensorboardLogger": "loggers",
        "Tracker": "loggers",
        "WandbLogger": "loggers",
        "Watch": "watch",
        "batch_metrics": "metrics",
        "build_report": "report",
        "make_tracker": "loggers",
        "throughput_metrics": "metrics",
    },
)
