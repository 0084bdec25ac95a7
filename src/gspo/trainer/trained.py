"""A model that is trained, with its optimizer and schedule: its steps, and what a checkpoint holds of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR
from transformers import PreTrainedTokenizerBase

from gspo.algorithms.stats import Mean, Stat
from gspo.checkpoint import Checkpoint, CheckpointError, export_hf, load_optimizer, optimizer_to_tensors
from gspo.config.schema import OptimConfig
from gspo.models import VALUE_HEAD, Policy, Scorer, end_token_ids
from gspo.models.preparing import dtype_named
from gspo.trainer.loss_scale import LossScale
from gspo.world import Alone, World

__all__ = ["Actor", "Trained", "TrainedScorer", "clip_and_step", "export_policy", "make_optimizer", "make_schedule"]

# The types that weights may have, by safetensors' names.
_TYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16", "F64": "float64"}


class Trained:
    """A module with an optimizer and a learning-rate schedule.

    Args:
        module: what is trained.
        optim: the optimizer's settings.
        total_steps: updates of the run that the schedule counts, one for each training step.
        name: "actor" or "critic": the prefix of its metrics, and its entries in a checkpoint (NAME, NAME_optim).
        model_key: the configuration's key of its model, for messages.
        world: the ranks that train it.
        products: the type of its matrix products, where it is not that of the weights; float16 needs a loss scale.

    Attributes:
        peak_lr: the learning rate that the schedule scales.
        loss_scale: the factor of its losses, where there is one.
    """

    def __init__(
        self,
        module: nn.Module,
        optim: OptimConfig,
        total_steps: int,
        *,
        name: str,
        model_key: str,
        world: World | None = None,
        products: torch.dtype | None = None,
    ) -> None:
        self.module = module
        self._world = world or Alone()
        self.name = name
        self.optimizer = make_optimizer(module, optim)
        self.schedule = make_schedule(self.optimizer, optim, total_steps)
        self.peak_lr = optim.lr
        self._num_skipped = 0
        self._clip_grad = optim.clip_grad
        self._model_key = model_key
        self._lr_key = optim.key("lr")
        self.loss_scale = LossScale() if products == torch.float16 else None

    @property
    def lr(self) -> float:
        """The current learning rate."""
        return float(self.optimizer.param_groups[0]["lr"])

    def backward(self, loss: Tensor) -> None:
        """Adds the gradients of a loss to those gathered so far."""
        (loss if self.loss_scale is None else loss * self.loss_scale.value).backward()

    def step(self) -> dict[str, Stat]:
        """One optimizer step on the gradients gathered so far.

        A gradient that is not finite, on whatever rank, is dropped on all of them and counted.

        Raises:
            ValueError: a loss scale finds no finite gradient.
        """
        if self.loss_scale is not None:
            self.loss_scale.unscale(self.module.parameters())
        norm = clip_and_step(self.module, self.optimizer, self._clip_grad, self._world)
        skipped = not math.isfinite(norm)
        self._num_skipped += skipped
        stats: dict[str, Stat] = {f"{self.name}/skipped_steps": Mean(float(skipped))}
        if self.loss_scale is not None:
            stats[f"{self.name}/loss_scale"] = Mean(self.loss_scale.value)
            self.loss_scale.update(skipped)
        return stats if skipped else stats | {f"{self.name}/grad_norm": Mean(norm)}

    def advance(self) -> None:
        """Ends a training step: moves the schedule on, also where the optimizer's steps were all dropped.

        Raises:
            ValueError: the step left weights that are NaN or infinite; no checkpoint holds them yet.
        """
        self._check_finite()
        self._set_rates(self.schedule.last_epoch + 1)

    @contextmanager
    def constant_rate(self, lr: float) -> Iterator[None]:
        """A training step at this learning rate, which the schedule does not count.

        Raises:
            ValueError: the step left weights that are NaN or infinite; no checkpoint holds them yet.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        yield
        self._check_finite()
        self._set_rates(self.schedule.last_epoch)

    def _check_finite(self) -> None:
        """Raises on every rank where the weights of any are not finite."""
        trained = {name: p.detach() for name, p in self.module.named_parameters() if p.requires_grad}
        sums = torch.stack([parameter.sum(dtype=torch.float32) for parameter in trained.values()])
        wrong = [name for name, finite in zip(trained, sums.isfinite().tolist(), strict=True) if not finite]
        if self._world.any(bool(wrong)):
            where = f"{wrong[0]} of the {self.name}" if wrong else f"a weight of the {self.name} on another rank"
            raise ValueError(
                f"training has diverged: {where} is NaN or infinite after this step. Lower {self._lr_key}; the same "
                "command then goes on from the newest checkpoint, if there is one"
            )

    def tensors(self) -> dict[str, Mapping[str, Tensor]]:
        """Weights and optimizer moments, for a checkpoint."""
        moments, _ = optimizer_to_tensors(self.optimizer, self.module.named_parameters())
        weights = {entry: module.state_dict() for entry, module in self._entries().items()}
        return {**weights, f"{self.name}_optim": moments}

    def _entries(self) -> dict[str, nn.Module]:
        """The entries of a checkpoint that hold weights, and the modules that these are of."""
        return {self.name: self.module}

    def state(self, step: int) -> dict[str, Any]:
        """What of optimizer and schedule is no tensor, for a checkpoint."""
        del step  # the schedule counts for itself
        _, optimizer = optimizer_to_tensors(self.optimizer, self.module.named_parameters())
        scale = {} if self.loss_scale is None else {"loss_scale": self.loss_scale.state_dict()}
        counts = {"schedule_step": self.schedule.last_epoch, "skipped": self._num_skipped}
        return {self.name: {"optimizer": optimizer, **counts, **scale}}

    def check_moved(self) -> None:
        """Holds, at the end of a run, that not all of its optimizer steps were left out.

        Raises:
            ValueError: they were, and the weights are those that the run began with.
        """
        if self._num_skipped and not any(self.optimizer.state.values()):
            raise ValueError(
                f"every optimizer step of the {self.name} was left out ({self._num_skipped}), as its gradient was NaN "
                "or infinite: the weights are those that the run began with. Look for rewards or losses that are not "
                f"finite, lower {self._lr_key}, and begin again with trainer.resume_mode=disable"
            )

    def check(self, checkpoint: Checkpoint) -> None:
        """Checks that a checkpoint holds this model, before anything of the run is changed.

        Raises:
            CheckpointError: it is of another model, or of a run without this one.
        """
        if self.name not in checkpoint.tensors:
            raise CheckpointError(
                f"{checkpoint.path} holds no {self.name}, which this run trains: resume with the settings that the run "
                "began with"
            )
        for entry, module in self._entries().items():
            mine, heads = module.state_dict(), checkpoint.heads(entry)
            shapes = {name: tuple(tensor.shape) for name, tensor in mine.items()}
            if difference := _difference(shapes, {name: head.shape for name, head in heads.items()}):
                raise CheckpointError(
                    f"the weights in {checkpoint.path} are of another model than {self._model_key}: "
                    f"resume with the model the run began with ({difference})"
                )
            for name, tensor in mine.items():
                was, now = _TYPES.get(heads[name].dtype), str(tensor.dtype).removeprefix("torch.")
                if was is not None and now in _TYPES.values() and was != now:
                    raise CheckpointError(
                        f"the weights in {checkpoint.path} are {was}, and this run's are {now}: resume with "
                        f"actor_rollout_ref.model.dtype={was}"
                    )

    def load(self, checkpoint: Checkpoint) -> None:
        """Goes back to where a checkpoint was taken, one that `check` has passed."""
        for entry, module in self._entries().items():
            module.load_state_dict(checkpoint.tensors[entry])
        moments, state = checkpoint.tensors[f"{self.name}_optim"], checkpoint.state[self.name]
        configured = [{key: group[key] for key in group if key != "params"} for group in self.optimizer.param_groups]
        load_optimizer(self.optimizer, self.module.named_parameters(), moments, state["optimizer"])
        for group, options in zip(self.optimizer.param_groups, configured, strict=True):
            group.update(options)  # betas, weight decay and eps are those of the run as it is configured now
        self._num_skipped = state.get("skipped", 0)  # a checkpoint of an earlier release has none
        self._set_rates(state["schedule_step"])
        if self.loss_scale is not None and "loss_scale" in state:
            self.loss_scale.load_state_dict(state["loss_scale"])

    def _set_rates(self, step: int) -> None:
        """Learning rates of this step of the schedule: those of the run as it is configured now."""
        schedule = self.schedule
        schedule.last_epoch = step
        bases = zip(schedule.base_lrs, schedule.lr_lambdas, strict=True)
        for group, (base, factor) in zip(self.optimizer.param_groups, bases, strict=True):
            group["lr"] = float(base) * factor(step)


class TrainedScorer(Trained):
    """A value critic's or a discriminator's model that is trained: "critic" in metrics and checkpoints."""

    def __init__(self, scorer: Scorer, optim: OptimConfig, total_steps: int, world: World | None = None) -> None:
        products, key = scorer.backbone.compute.products, "critic.model.path"
        super().__init__(scorer.model, optim, total_steps, name="critic", model_key=key, world=world, products=products)
        self.scorer = scorer


class Actor(Trained):
    """A policy that is trained, with the value head on its backbone where it has one.

    In a checkpoint the model is the same with and without a head, which has an entry of its own.

    Args:
        policy: the policy.
        optim: its optimizer's settings.
        total_steps: training steps that update it, for the schedule.
        world: the ranks that train it.
    """

    def __init__(self, policy: Policy, optim: OptimConfig, total_steps: int, world: World | None = None) -> None:
        module: nn.Module = policy.model
        if policy.heads:
            module = nn.ModuleDict({"model": policy.model, **policy.heads})
        key = "actor_rollout_ref.model.path"
        products = policy.backbone.compute.products
        super().__init__(module, optim, total_steps, name="actor", model_key=key, world=world, products=products)
        self.policy = policy

    def check(self, checkpoint: Checkpoint) -> None:
        """Checks that a checkpoint holds this policy, and a value head just where this run has one.

        Raises:
            CheckpointError: it does not.
        """
        wanted = self.policy.has_values
        if wanted is not (VALUE_HEAD in checkpoint.tensors):
            holds, now = ("no", "true") if wanted else ("a", "false")
            raise CheckpointError(
                f"{checkpoint.path} holds {holds} value head on the actor's backbone, and this run has "
                f"critic.shared_backbone={now}: resume with the settings that the run began with"
            )
        super().check(checkpoint)

    def _entries(self) -> dict[str, nn.Module]:
        return {"actor": self.policy.model, **self.policy.heads}

    def export(self, tokenizer: PreTrainedTokenizerBase, folder: Path, asked: str | None = None) -> None:
        """Writes the model as a Hugging Face folder, in the type that is asked for or in that of the model trained."""
        export_policy(self.policy, tokenizer, folder, asked)


def export_policy(policy: Policy, tokenizer: PreTrainedTokenizerBase, folder: Path, asked: str | None) -> None:
    """Writes a policy's model as a Hugging Face folder, in the type that is asked for or in that of the model read."""
    dtype = dtype_named(asked) if asked else policy.export_dtype
    ends = end_token_ids(policy.model, tokenizer)
    export_hf(policy.model, tokenizer, folder, end_ids=ends, dtype=dtype, files=policy.export_files)


def _difference(mine: Mapping[str, tuple[int, ...]], theirs: Mapping[str, tuple[int, ...]]) -> str:
    """The first entry in which two sets of weights differ; empty where they are alike."""
    for name in sorted({*mine, *theirs}):
        if name not in theirs:
            return f"it has no {name}"
        if name not in mine:
            return f"it has {name}, and the model has none"
        if mine[name] != theirs[name]:
            return f"{name} is of shape {list(theirs[name])} there, and of {list(mine[name])} in the model"
    return ""


def make_optimizer(model: nn.Module, config: OptimConfig) -> AdamW:
    """AdamW over the trainable parameters; vectors (norms and biases) have no weight decay."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.dim() >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in trainable if p.dim() < 2], "weight_decay": 0.0},
    ]
    first, second = config.betas
    return AdamW(
        [group for group in groups if group["params"]], lr=config.lr, betas=(first, second), eps=config.eps, fused=True
    )


def make_schedule(optimizer: AdamW, config: OptimConfig, total_steps: int) -> LambdaLR:
    """Linear warmup, then constant, cosine or linear down to `min_lr_ratio`, counted in training steps."""
    if config.total_training_steps > 0:
        total_steps = config.total_training_steps
    warmup = config.lr_warmup_steps if config.lr_warmup_steps >= 0 else int(config.lr_warmup_steps_ratio * total_steps)
    floor = config.min_lr_ratio
    after_warmup: dict[str, Callable[[float], float]] = {
        "constant": lambda _: 1.0,
        "cosine": lambda part: floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * part)),
        "linear": lambda part: floor + (1 - floor) * (1 - part),
    }
    shape = after_warmup[config.lr_scheduler_type]

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return shape(min(1.0, (step - warmup) / max(1, total_steps - warmup)))

    return LambdaLR(optimizer, factor)


def clip_and_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, max_norm: float, world: World | None = None
) -> float:
    """One optimizer step with the gradients clipped to `max_norm`, which are then cleared.

    Returns:
        the gradient norm before clipping. Where it is not finite on any rank, no rank takes the step: the weights stay
        as they are, and the norm is NaN or infinite on all.
    """
    norm = float(nn.utils.clip_grad_norm_(model.parameters(), max_norm))
    if (world or Alone()).any(not math.isfinite(norm)):
        norm = norm if not math.isfinite(norm) else math.nan
    else:
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return norm
