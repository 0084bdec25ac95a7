"""The moment that chat templates take for now.

transformers gives templates `strftime_now`, which reads the clock, and takes no function of a caller's in its place.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from transformers.utils import chat_template_utils

__all__ = ["clock_at"]


@contextmanager
def clock_at(moment: datetime | None) -> Iterator[None]:
    """Within it chat templates are rendered as at this moment; None: at the present one."""
    if moment is None:
        yield
        return

    class Then(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            del tz
            return moment

    before = chat_template_utils.datetime
    chat_template_utils.datetime = Then
    try:
        yield
    finally:
        chat_template_utils.datetime = before
