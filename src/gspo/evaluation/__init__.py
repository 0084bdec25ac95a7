"""How good responses are: accuracy and intervals, statistics, overlap with a teacher's texts."""

__all__: list[str] = []
