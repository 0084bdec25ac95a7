"""verl on a CPU: a platform for it, and eager attention for its value heads.

verl loads it in each of its processes: VERL_PLATFORM=cpu VERL_USE_EXTERNAL_MODULES=verl_on_cpu, with this folder on
PYTHONPATH.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
import transformers
from verl.plugin.platform import PlatformBase, PlatformRegistry


class _DeviceModule:
    """torch.cpu, with nothing done where a GPU has something to do."""

    @staticmethod
    def current_device() -> str:
        return "cpu"

    @staticmethod
    def get_device_name(*_: Any) -> str:
        return "CPU"

    @staticmethod
    def mem_get_info(*_: Any) -> tuple[int, int]:
        return 1 << 30, 1 << 31

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(torch.cpu, name, lambda *args, **kwargs: 0)


@PlatformRegistry.register(platform="cpu")
class PlatformCPU(PlatformBase):
    device_name = "cpu"
    vendor_name = "cpu"
    device_module = _DeviceModule()

    def is_available(self, use_smi_check: bool = False) -> bool:
        return True

    def current_device(self) -> str:
        return "cpu"

    def device_count(self) -> int:
        return 1

    def set_device(self, device_index: int) -> None:
        pass

    def synchronize(self, device_index: int | None = None) -> None:
        pass

    def manual_seed(self, seed: int) -> None:
        torch.manual_seed(seed)

    def manual_seed_all(self, seed: int) -> None:
        torch.manual_seed(seed)

    def set_allocator_settings(self, settings: str) -> None:
        pass

    def empty_cache(self) -> None:
        pass

    def get_device_capability(self, device_index: int = 0) -> tuple[None, None]:
        return None, None

    def communication_backend_name(self) -> str:
        return "gloo"

    def visible_devices_envvar(self) -> str:
        return "CPU_VISIBLE"

    def nvtx_range(self, msg: str) -> Any:
        return nullcontext()

    def profiler_start(self) -> None:
        pass

    def profiler_stop(self) -> None:
        pass

    def ray_resource_name(self) -> str:
        return "CPU"

    def ray_resource_options(self, num_gpus: float) -> dict[str, Any]:
        return {"num_cpus": num_gpus}

    def ray_noset_envvars(self) -> list[str]:
        return []

    def is_ipc_supported(self) -> bool:
        return False

    def cudart(self) -> None:
        return None


def _eager(load: Any) -> Any:
    def loaded(*args: Any, **kwargs: Any) -> Any:
        # verl's loader of value heads names flash attention, which is for GPUs.
        return load(*args, **(kwargs | {"attn_implementation": "eager"}))

    return loaded


_AutoModel = transformers.AutoModelForTokenClassification
_AutoModel.from_pretrained = _eager(_AutoModel.from_pretrained)


def register_engines() -> None:
    """Makes verl's FSDP engines known for a CPU."""
    from verl.workers.engine.base import EngineRegistry
    from verl.workers.engine.fsdp import transformer_impl

    # The reference's weights are offloaded into pinned memory, which there is none of without an accelerator.
    offload = transformer_impl.CPUOffloadPolicy
    transformer_impl.CPUOffloadPolicy = lambda pin_memory=True: offload(pin_memory=False)
    engines = {
        "language_model": transformer_impl.FSDPEngineWithLMHead,
        "value_model": transformer_impl.FSDPEngineWithValueHead,
    }
    for model_type, engine in engines.items():
        EngineRegistry.register(model_type=model_type, backend=["fsdp", "fsdp2"], device="cpu")(engine)


def _one_backend(begin: Any) -> Any:
    def begun(*args: Any, **kwargs: Any) -> Any:
        # verl names the CPU's backend next to the device's, which are the same here.
        if kwargs.get("backend") == "cpu:gloo,cpu:gloo":
            kwargs["backend"] = "gloo"
        return begin(*args, **kwargs)

    return begun


torch.distributed.init_process_group = _one_backend(torch.distributed.init_process_group)
register_engines()
