"""verl's data set for rows that have a prompt and a teacher's text, and perhaps nothing else."""

from __future__ import annotations

from typing import Any

from verl.utils.dataset.rl_dataset import RLHFDataset

__all__ = ["GadDataset"]


class GadDataset(RLHFDataset):
    """Adds the columns that verl's reward loop asks for, where a row has none: `data_source` and `reward_model`."""

    def __getitem__(self, item: int) -> dict[str, Any]:
        """A row as verl's own data set gives it."""
        row: dict[str, Any] = super().__getitem__(item)
        row.setdefault("data_source", "gad")
        if row.get("reward_model") is None:
            row["reward_model"] = {"style": "rule", "ground_truth": ""}
        return row
