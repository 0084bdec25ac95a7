"""The order in which prompts are taken: batches of indices, epoch after epoch, resumable at any point."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

__all__ = ["PromptSampler", "shard"]

Item = TypeVar("Item")


class PromptSampler:
    """Batches of indices over endless epochs.

    An epoch's order is a function of (seed, epoch) only. Each epoch leaves out what does not fill its last batch; which
    prompts these are changes with the order when it is shuffled.

    Attributes:
        epoch: the epoch of the next batch, from 0.
        batch: the number of the next batch in its epoch, from 0.

    Raises:
        ValueError: there are fewer prompts than fill one batch.
    """

    def __init__(
        self, num_prompts: int, batch_size: int, shuffle: bool = True, seed: int = 1, fingerprint: str = ""
    ) -> None:
        """Begins with the first batch of the first epoch.

        Args:
            num_prompts: how many there are.
            batch_size: indices in a batch.
            shuffle: a new order in each epoch; otherwise the data's own.
            seed: of those orders.
            fingerprint: of the data, so that a state is not taken up with other data of the same length.
        """
        if batch_size < 1:
            raise ValueError(f"a batch of {batch_size} prompts cannot be made: set data.train_batch_size to 1 or more")
        if num_prompts < batch_size:
            raise ValueError(
                f"{num_prompts} prompts do not fill one batch of data.train_batch_size={batch_size}: "
                f"set it to {num_prompts} or less, or add data"
            )
        if seed < 0:
            raise ValueError(f"the sampler's seed is {seed}: set data.seed to 0 or more")
        self.num_prompts = num_prompts
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = seed
        self.fingerprint = fingerprint
        self.epoch = 0
        self.batch = 0
        self._order: tuple[int, np.ndarray] | None = None

    @property
    def batches_per_epoch(self) -> int:
        return self.num_prompts // self.batch_size

    def next_batch(self) -> list[int]:
        """The next `batch_size` indices; after the last batch of an epoch the next epoch begins."""
        start = self.batch * self.batch_size
        indices: list[int] = self._epoch_order()[start : start + self.batch_size].tolist()
        self.batch += 1
        if self.batch == self.batches_per_epoch:
            self.epoch, self.batch = self.epoch + 1, 0
        return indices

    def state_dict(self) -> dict[str, Any]:
        """The sampler's position, as JSON-able values."""
        return {**self._identity(), "epoch": self.epoch, "batch": self.batch}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes to the point where `state` was taken.

        Raises:
            ValueError: the state is of other data, another batch size or another order.
        """
        for key, mine in self._identity().items():
            if key not in state:
                raise ValueError(f"the sampler's state has no {key!r}: it was not written by this sampler")
            if state[key] != mine:
                raise ValueError(
                    f"the checkpoint was written with {key}={state[key]} and the run has {key}={mine}: "
                    "resume with the same data, data.train_batch_size, data.shuffle and data.seed"
                )
        epoch, batch = int(state["epoch"]), int(state["batch"])
        if epoch < 0 or not 0 <= batch < self.batches_per_epoch:
            raise ValueError(f"the sampler's state is damaged: epoch {epoch}, batch {batch}")
        self.epoch, self.batch = epoch, batch

    def _identity(self) -> dict[str, Any]:
        return {
            "num_prompts": self.num_prompts,
            "batch_size": self.batch_size,
            "shuffle": self.shuffle,
            "seed": self.seed,
            "fingerprint": self.fingerprint,
        }

    def _epoch_order(self) -> np.ndarray:
        if self._order is None or self._order[0] != self.epoch:
            self._order = (self.epoch, self._permutation(self.epoch))
        return self._order[1]

    def _permutation(self, epoch: int) -> np.ndarray:
        if not self.shuffle:
            return np.arange(self.num_prompts)
        # Sorting raw bits, because numpy keeps those the same between versions and its `permutation` not.
        bits = np.random.PCG64(np.random.SeedSequence([self.seed, epoch])).random_raw(self.num_prompts)
        return np.argsort(bits, kind="stable")


def shard(items: Sequence[Item], rank: int, world: int) -> Sequence[Item]:
    """The part of `items` that a rank owns, dealt out in turn: every mini-batch then has items of every rank.

    Raises:
        ValueError: the rank is not in the world, or there are fewer items than ranks.
    """
    if not 0 <= rank < world:
        raise ValueError(f"rank {rank} is not in a world of {world}")
    if len(items) < world:
        raise ValueError(
            f"{len(items)} prompts cannot be shared by {world} ranks: set data.train_batch_size to {world} or more"
        )
    return items[rank::world]
