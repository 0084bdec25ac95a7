"""Prompts from files: validated rows, the sampler that walks them, and writers of data sets.

The names are loaded when they are first used: the writers (`gspo data`) need neither torch nor transformers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gspo.lazy import lazy_names

if TYPE_CHECKING:
    from gspo.data.dataset import PromptDataset, load_dataset
    from gspo.data.rows import DataError
    from gspo.data.sampler import PromptSampler, shard

__all__ = ["DataError", "PromptDataset", "PromptSampler", "load_dataset", "shard"]

__getattr__ = lazy_names(
    __name__,
    {
        "DataError": "rows",
        "PromptDataset": "dataset",
        "PromptSampler": "sampler",
        "load_dataset": "dataset",
        "shard": "sampler",
    },
)
