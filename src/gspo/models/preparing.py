"""Makes a causal language model ready to train, whether it was read from a folder or handed over as an object."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules.dropout import _DropoutNd
from transformers import PreTrainedModel

from gspo.models.backbone import Compute
from gspo.models.cpu.fused import use_fused_kernels as fuse
from gspo.models.cpu.memory import keep_freed_memory
from gspo.models.precision import mixed_precision as is_mixed

__all__ = ["dtype_named", "prepare_model", "randomness"]

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}


def dtype_named(name: str) -> torch.dtype:
    """The type that `actor_rollout_ref.model.dtype` names.

    Raises:
        ValueError: it names none.
    """
    if name not in _DTYPES:
        raise ValueError(f"actor_rollout_ref.model.dtype is {name!r}; it can be {', '.join(_DTYPES)}")
    return _DTYPES[name]


def prepare_model(
    model: PreTrainedModel,
    *,
    dtype: str | None = None,
    device: torch.device | str = "cpu",
    gradient_checkpointing: bool = False,
    use_fused_kernels: bool = True,
    mixed_precision: bool | None = None,
    mixed_precision_dtype: str = "bfloat16",
    path: str | None = None,
) -> Compute:
    """Makes a model ready to train, in place: nothing random in it, weights checked to be finite, on its device.

    A model that was prepared before may be prepared again.

    Args:
        model: the model; its names of parameters stay.
        dtype: the type that its weights get: "float32", "bfloat16", "float16" or "float64"; None: they keep theirs.
        device: where it goes.
        gradient_checkpointing: recompute activations in the backward pass.
        use_fused_kernels: run its layers on faster operations where they serve: this project's own on a CPU in float32,
            flex_attention on a GPU in bfloat16.
        mixed_precision: compute its products in 16 bits whatever its dtype; None: a float32 model does on a GPU that
            has that type.
        mixed_precision_dtype: "bfloat16" or "float16", the latter with a loss scale where it is trained.
        path: where it was read from, for messages; None: it is an object.

    Returns:
        how its passes are to compute, for `Policy` and `Scorer`.

    Raises:
        ValueError: an unknown dtype, a GPU without bfloat16 that should use it, or weights that are NaN or infinite.
    """
    wanted = model.dtype if dtype is None else dtype_named(dtype)
    products = dtype_named(mixed_precision_dtype)
    mixed = is_mixed(mixed_precision, wanted, device, products)
    if dtype is not None:
        _cast(model, wanted)
    for name, parameter in model.named_parameters():
        if not bool(torch.isfinite(parameter).all()):
            given, how = "that was given", "load or make it again"
            if path is not None:
                given, how = f"in {path}", "download or export the model again"
            raise ValueError(f"the model {given} has NaN or infinite values in {name}: {how}")
    _switch_off(model)
    if torch.device(device).type == "cpu":
        model.to(device)  # the operations below are for weights that are there
    if use_fused_kernels:
        fuse(model)
    keep_freed_memory()
    model.eval()
    if gradient_checkpointing:
        # renamed within transformers 5
        enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        enable({"use_reentrant": False})
        for module in model.modules():  # transformers checkpoints in training mode only
            module.training = bool(getattr(module, "gradient_checkpointing", False))
    model.to(device)
    return Compute(products if mixed else None, flex=use_fused_kernels)


def _cast(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """Parameters alone: rotary frequencies, which are buffers, stay in float32, as they do when a model is read."""
    for parameter in model.parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(dtype)


def randomness(model: PreTrainedModel) -> dict[str, float]:
    """What the model would draw at random in training mode: the largest rate (or width of a noise) by its name."""
    found: dict[str, float] = {}
    for _, name, rate in _random_rates(model):
        found[name] = max(rate, found.get(name, 0.0))
    return found


def _random_rates(model: PreTrainedModel) -> list[tuple[nn.Module, str, float]]:
    """Each module's rates above zero."""
    return [
        (module, name, value)
        for module in model.modules()
        for name, value in vars(module).items()
        if isinstance(value, float) and value > 0 and _is_rate(module, name)
    ]


def _is_rate(module: nn.Module, name: str) -> bool:
    if isinstance(module, _DropoutNd):
        return name == "p"
    return any(part in name for part in ("dropout", "drop_prob", "drop_rate", "layerdrop", "pdrop", "jitter"))


def _switch_off(model: PreTrainedModel) -> None:
    """Log-probabilities of one policy must be one number, so no layer may drop or add at random.

    Evaluation mode does that for all modules but those that recompute activations.
    """
    for module, name, _ in _random_rates(model):
        setattr(module, name, 0.0)
