"""verl's critic worker in this process, and this package's discriminator with the same weights on the same tokens."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM
from verl.trainer.config import CheckpointConfig
from verl.workers.config import FSDPEngineConfig, FSDPOptimizerConfig, HFModelConfig
from verl.workers.engine_workers import TrainingWorker, TrainingWorkerConfig

from gspo.algorithms import compute_discriminator_loss
from gspo.algorithms.stats import to_floats
from gspo.groups import Group, GroupBatch, Prompt, Response
from gspo.integrations.verl.losses import discriminator_loss
from gspo.integrations.verl.rows import Row
from gspo.integrations.verl.settings import GadSettings
from gspo.models.scorer import Scorer

# Two prompts with three responses each; lengths of prompt, responses, teacher.
LENGTHS = [(5, (3, 7, 1), 4), (2, (6, 2, 5), 9)]
LR = 0.25


@dataclass
class Sample:
    students: list[Row]
    teachers: list[Row]
    group_index: list[int]
    batch: GroupBatch


def make_sample() -> Sample:
    draw = torch.Generator().manual_seed(3)

    def tokens(count: int) -> Tensor:
        return torch.randint(3, 60, (count,), generator=draw)

    students, teachers, index, groups = [], [], [], []
    for number, (prompt_length, lengths, teacher_length) in enumerate(LENGTHS):
        prompt, teacher = tokens(prompt_length), tokens(teacher_length)
        responses = [tokens(length) for length in lengths]
        students += [Row(prompt, response) for response in responses]
        teachers.append(Row(prompt, teacher))
        index += [number] * len(responses)
        groups.append(own_group(prompt, responses, teacher))
    return Sample(students, teachers, index, GroupBatch.without_tensors(groups))


def own_group(prompt: Tensor, responses: Sequence[Tensor], teacher: Tensor) -> Group:
    def response(token_ids: Tensor) -> Response:
        return Response(token_ids.tolist(), [0.0] * len(token_ids), "", "stop")

    group = Group(Prompt("p", tuple(prompt.tolist()), "", ""), [response(tokens) for tokens in responses])
    group.teacher = response(teacher)
    return group


@contextmanager
def critic_worker(folder: Path, rank: int, world_size: int, port: int) -> Iterator[TrainingWorker]:
    """One rank of verl's critic, with plain descent, so that a step shows its gradient."""
    place = {"RANK": rank, "WORLD_SIZE": world_size, "LOCAL_RANK": 0, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ |= {name: str(value) for name, value in place.items()}
    path = str(folder)
    model = HFModelConfig(path=path, tokenizer_path=path, use_remove_padding=False, enable_gradient_checkpointing=False)
    config = TrainingWorkerConfig(
        model_type="value_model",
        model_config=model,
        engine_config=FSDPEngineConfig(
            strategy="fsdp2",
            fsdp_size=world_size,
            model_dtype="fp32",
            mixed_precision=dict.fromkeys(("param_dtype", "reduce_dtype", "buffer_dtype"), "fp32"),
            use_torch_compile=False,
        ),
        optimizer_config=FSDPOptimizerConfig(
            optimizer="SGD",
            optimizer_impl="torch.optim",
            lr=LR,
            weight_decay=0.0,
            clip_grad=1e9,
            total_training_steps=9,
        ),
        checkpoint_config=CheckpointConfig(),
    )
    worker = TrainingWorker(config)
    worker.reset()
    worker.set_loss_fn(discriminator_loss)
    yield worker
    torch.distributed.destroy_process_group()
    for name in place:
        del os.environ[name]


def full(value: Tensor) -> Tensor:
    return value.full_tensor() if hasattr(value, "full_tensor") else value


def weights_of(worker: TrainingWorker) -> dict[str, Tensor]:
    return {name: full(value.detach()).clone() for name, value in worker.engine.module.named_parameters()}


def own_scorer(folder: Path, weights: dict[str, Tensor]) -> Scorer:
    """This package's discriminator with the worker's weights."""
    scorer = Scorer(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32))
    own = {verl_name(name): value for name, value in scorer.model.named_parameters()}
    assert own.keys() == weights.keys()
    with torch.no_grad():
        for name, value in own.items():
            value.copy_(weights[name])
    return scorer


def verl_name(name: str) -> str:
    return name.replace("decoder.", "model.", 1).replace("head.", "score.", 1)


def own_step(scorer: Scorer, batch: GroupBatch, settings: GadSettings) -> tuple[dict[str, float], dict[str, Tensor]]:
    """The figures and gradients of one optimizer step, from the padded form of the loss with its masks."""
    student, teacher = scorer.compare(batch)
    index = torch.as_tensor(batch.group_index)
    lengths = [len(response) for group in batch.groups for response in group.responses]
    teacher_lengths = [len(group.teacher) for group in batch.groups]
    student, mask = at_last(student, lengths)
    teacher, teacher_mask = at_last(teacher, teacher_lengths)
    loss, stats = compute_discriminator_loss(student, teacher[index], mask, teacher_mask[index], **settings.loss)
    scorer.model.zero_grad()
    loss.backward()
    gradients = {verl_name(name): value.grad.clone() for name, value in scorer.model.named_parameters()}
    return to_floats(stats), gradients


def at_last(scores: Tensor, lengths: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Scores at the last token of each row of a padded tensor, and its mask."""
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    last = torch.nn.functional.one_hot(torch.tensor(lengths) - 1, max(lengths))
    return last * scores[:, None], mask
