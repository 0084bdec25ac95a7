"""DAPO's soft penalty for responses that come close to the length limit."""

from __future__ import annotations

__all__ = ["overlong_penalty"]


def overlong_penalty(length: int, max_length: int, buffer: int, factor: float = 1.0) -> float:
    """0 up to `max_length - buffer` tokens, then falling linearly to `-factor` at `max_length`, and there it stays.

    DAPO (arXiv 2503.14476), eq. 13, with the factor of its code.
    """
    excess = length - (max_length - buffer)
    return -factor * min(max(excess / buffer, 0.0), 1.0)
