"""Prompts from files: validated rows, the sampler that walks them, and writers of data sets."""

from gspo.data.dataset import PromptDataset, load_dataset
from gspo.data.rows import DataError
from gspo.data.sampler import PromptSampler, shard

__all__ = ["DataError", "PromptDataset", "PromptSampler", "load_dataset", "shard"]
