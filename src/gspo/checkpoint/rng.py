"""The global random states of torch, NumPy and Python, as tensors and JSON."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["rng_state", "seed_generators", "set_rng_state"]


def seed_generators(seed: int) -> None:
    """Seeds this process's global generators: torch, NumPy's and Python's, which a function of the user's may draw."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


def rng_state() -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The states of this process's global generators: torch (CPU and every CUDA device), NumPy's and Python's."""
    version, words, gauss_next = random.getstate()
    _, keys, position, has_gauss, cached_gaussian = np.random.get_state()
    tensors = {
        "torch_cpu": torch.get_rng_state(),
        "numpy": torch.from_numpy(np.asarray(keys).astype(np.int64)),
        "python": torch.tensor(words, dtype=torch.int64),
    }
    cuda_states = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    tensors |= {f"torch_cuda_{device}": state for device, state in enumerate(cuda_states)}
    state = {
        "python": {"version": version, "gauss_next": gauss_next},
        "numpy": {"position": int(position), "has_gauss": int(has_gauss), "cached_gaussian": float(cached_gaussian)},
        "num_cuda_devices": len(cuda_states),
    }
    return tensors, state


def set_rng_state(tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> list[str]:
    """Puts the states of `rng_state` back.

    Returns:
        Warnings to show: a line where this machine's CUDA devices are not those of the checkpoint, whose random draws
        then cannot be repeated.
    """
    python, numpy_state = state["python"], state["numpy"]
    random.setstate((python["version"], tuple(tensors["python"].tolist()), python["gauss_next"]))
    keys = tensors["numpy"].numpy().astype(np.uint32)
    position, has_gauss = numpy_state["position"], numpy_state["has_gauss"]
    np.random.set_state(("MT19937", keys, position, has_gauss, numpy_state["cached_gaussian"]))
    torch.set_rng_state(tensors["torch_cpu"].clone())
    saved = state["num_cuda_devices"]
    present = torch.cuda.device_count() if torch.cuda.is_available() else 0
    for device in range(min(saved, present)):
        torch.cuda.set_rng_state(tensors[f"torch_cuda_{device}"].clone(), device)
    if saved == present:
        return []
    return [f"the checkpoint has random states of {saved} CUDA devices and {present} are here: draws on them differ"]
