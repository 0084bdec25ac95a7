"""verl's actor worker with what GAD's warmup needs: another loss for its steps, and a reference that is taken later."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from verl.single_controller.base.decorator import Dispatch, register
from verl.workers.engine_workers import ActorRolloutRefWorker
from verl.workers.utils.losses import sft_loss

__all__ = ["GadActorWorker"]


class GadActorWorker(ActorRolloutRefWorker):
    """The actor, the rollout and the reference of a GAD run on one rank."""

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def imitate(self, on: bool) -> None:
        """Sets what `update_actor` minimises: verl's cross-entropy of supervised training, or the policy loss again."""
        self.actor.set_loss_fn(partial(sft_loss, config=None) if on else self.loss_fn)

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    @torch.no_grad()
    def take_reference(self, folder: str) -> None:
        """Makes the student as it is the reference, and writes this rank's part of it into a folder.

        Raises:
            ValueError: the reference is sharded otherwise than the actor.
        """
        own, taken = _shards(self.ref.engine.module), _shards(self.actor.engine.module)
        shapes = [{name: tuple(shard.shape) for name, shard in shards.items()} for shards in (own, taken)]
        if shapes[0] != shapes[1]:
            raise ValueError(
                "the reference cannot be taken from the student, because it is sharded otherwise: give "
                "actor_rollout_ref.ref.fsdp_config and strategy the values of actor_rollout_ref.actor"
            )
        for name, shard in own.items():
            shard.copy_(taken[name])
        target = self._part(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        written = target.with_suffix(".writing")
        save_file({name: shard.detach().cpu().contiguous() for name, shard in own.items()}, written)
        written.replace(target)

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    @torch.no_grad()
    def load_reference(self, folder: str) -> None:
        """Reads what `take_reference` wrote, with the same number of ranks.

        Raises:
            ValueError: this rank's part is not there.
        """
        part = self._part(folder)
        if not part.is_file():
            raise ValueError(
                f"{part} is not there: this run goes on behind GAD's warmup and needs the reference that the warmup "
                "ended with; resume with the ranks and the gad.warmup_steps of the run that wrote the checkpoint"
            )
        stored = load_file(part)
        for name, shard in _shards(self.ref.engine.module).items():
            shard.copy_(stored[name])

    def _part(self, folder: str) -> Path:
        return Path(folder) / f"rank_{self.rank}_of_{self.world_size}.safetensors"


def _shards(module: Any) -> dict[str, Tensor]:
    """This rank's part of each parameter."""
    return {name: getattr(value, "to_local", lambda value=value: value)() for name, value in module.named_parameters()}
