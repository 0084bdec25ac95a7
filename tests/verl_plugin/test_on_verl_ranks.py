"""Two ranks of verl's critic learn what one process of this package's discriminator does."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from verl.utils import tensordict_utils as tu
from verl.workers.engine_workers import TrainingWorker
from verl_critic import LR, critic_worker, make_sample, own_scorer, own_step, weights_of

from gspo.integrations.verl.discriminator import Discriminator
from gspo.integrations.verl.rows import Cut
from gspo.integrations.verl.settings import GadSettings

RANKS = 2


class Dispatched:
    """What verl's worker group does, from within each rank: each takes its part, and all get all values."""

    def __init__(self, worker: TrainingWorker, rank: int) -> None:
        self._worker, self._rank = worker, rank

    def infer_batch(self, data: Any) -> dict[str, torch.Tensor]:
        own = [part.float() for part in self._worker.infer_batch(self._part(data))["values"].unbind()]
        gathered: list[Any] = [None] * RANKS
        torch.distributed.all_gather_object(gathered, own)
        rows = [value for part in gathered for value in part]
        return {"values": torch.nested.as_nested_tensor(rows, layout=torch.jagged)}

    def train_batch(self, data: Any) -> Any:
        return self._worker.train_batch(self._part(data))

    def _part(self, data: Any) -> Any:
        return tu.chunk_tensordict(data, RANKS)[self._rank]


def learn(rank: int, folder: Path, out: Path, port: int) -> None:
    with critic_worker(folder, rank, RANKS, port) as worker:
        sample, before = make_sample(), weights_of(worker)
        cut = Cut(RANKS, False, 0, 1)
        discriminator = Discriminator(Dispatched(worker, rank), GadSettings(margin=0.2), cut, prompts_per_step=2)
        discriminator.score(sample.students, sample.teachers, sample.group_index)
        learned = discriminator.update()
        after = weights_of(worker)  # of all ranks
        if rank == 0:
            save_file(before, out / "before.safetensors")
            save_file(after | {"d_loss": torch.tensor(learned["critic/d_loss"])}, out / "after.safetensors")


def test_two_ranks_learn_what_one_process_does(tiny_model_folder: Path, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(learn, (tiny_model_folder, tmp_path, port), nprocs=RANKS)
    before, after = load_file(tmp_path / "before.safetensors"), load_file(tmp_path / "after.safetensors")
    figures, gradients = own_step(own_scorer(tiny_model_folder, before), make_sample().batch, GadSettings(margin=0.2))
    torch.testing.assert_close(after["d_loss"].item(), figures["critic/d_loss"], rtol=1e-5, atol=1e-6)
    for name, gradient in gradients.items():
        torch.testing.assert_close((before[name] - after[name]) / LR, gradient, rtol=1e-4, atol=2e-6, msg=name)
