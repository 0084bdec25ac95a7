"""verl's critic worker under the plugin against this package's own discriminator, on the same tokens."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM
from verl.trainer.config import CheckpointConfig
from verl.workers.config import FSDPEngineConfig, FSDPOptimizerConfig, HFModelConfig
from verl.workers.engine_workers import TrainingWorker, TrainingWorkerConfig

from gspo.algorithms import compute_discriminator_loss
from gspo.algorithms.stats import to_floats
from gspo.groups import Group, GroupBatch, Prompt, Response
from gspo.integrations.verl.discriminator import Discriminator
from gspo.integrations.verl.losses import discriminator_loss
from gspo.integrations.verl.rows import Cut, Row
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


@pytest.fixture(scope="module")
def sample() -> Sample:
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


@pytest.fixture(scope="module")
def worker(tiny_model_folder: Path) -> Iterator[TrainingWorker]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    alone = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ |= alone
    path = str(tiny_model_folder)
    model = HFModelConfig(path=path, tokenizer_path=path, use_remove_padding=False, enable_gradient_checkpointing=False)
    config = TrainingWorkerConfig(
        model_type="value_model",
        model_config=model,
        engine_config=FSDPEngineConfig(
            strategy="fsdp2",
            fsdp_size=1,
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
    for name in alone:
        del os.environ[name]


@pytest.fixture
def fresh(worker: TrainingWorker) -> Iterator[dict[str, Tensor]]:
    """The worker's weights, which are put back afterwards."""
    before = weights_of(worker)
    yield before
    for name, value in worker.engine.module.named_parameters():
        with torch.no_grad():
            local(value).copy_(before[name])


def local(value: Tensor) -> Tensor:
    return value.to_local() if hasattr(value, "to_local") else value


def weights_of(worker: TrainingWorker) -> dict[str, Tensor]:
    return {name: local(value).detach().clone() for name, value in worker.engine.module.named_parameters()}


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


CUTS = {
    "all at once": Cut(1, True, 1000, None),
    "by tokens": Cut(1, True, 16, None),
    "one a pass": Cut(1, False, 0, 1),
    "three a pass, with a copy that fills up": Cut(1, False, 0, 3),
}
OTHER = GadSettings(temperature=2.0, margin=0.3, score_l2=0.1, label_smoothing=0.1)


@pytest.mark.parametrize("cut", CUTS.values(), ids=CUTS)
@pytest.mark.parametrize("settings", [GadSettings(), OTHER], ids=["plain", "with every key of the loss"])
def test_scores_losses_and_gradients_are_those_of_the_own_discriminator(
    worker: TrainingWorker,
    fresh: dict[str, Tensor],
    sample: Sample,
    tiny_model_folder: Path,
    cut: Cut,
    settings: GadSettings,
) -> None:
    scorer = own_scorer(tiny_model_folder, fresh)
    discriminator = Discriminator(worker, settings, cut, prompts_per_step=2)
    values = discriminator.score(sample.students, sample.teachers, sample.group_index)
    scores = torch.stack([value[-1] for value in values])
    torch.testing.assert_close(scores, scorer.scores(sample.batch).detach(), rtol=1e-5, atol=1e-6)
    assert [len(value) for value in values] == [len(row) for row in sample.students]
    figures, gradients = own_step(scorer, sample.batch, settings)

    learned = discriminator.update()

    assert {name: learned[name] for name in figures} == pytest.approx(figures, rel=1e-5, abs=1e-6)
    after = weights_of(worker)
    for name, gradient in gradients.items():
        torch.testing.assert_close((fresh[name] - after[name]) / LR, gradient, rtol=1e-4, atol=2e-6, msg=name)
    norm = torch.stack([gradient.norm() for gradient in gradients.values()]).norm()
    assert learned["critic/grad_norm"] == pytest.approx(norm.item(), rel=1e-4)


def test_each_of_several_steps_has_the_weights_of_the_discriminator_before_it(
    worker: TrainingWorker, fresh: dict[str, Tensor], sample: Sample, tiny_model_folder: Path
) -> None:
    scorer = own_scorer(tiny_model_folder, fresh)
    discriminator = Discriminator(worker, GadSettings(), CUTS["by tokens"], prompts_per_step=1, epochs=2)
    discriminator.score(sample.students, sample.teachers, sample.group_index)
    losses = []
    for group in [*sample.batch.groups, *sample.batch.groups]:
        figures, gradients = own_step(scorer, GroupBatch.without_tensors([group]), GadSettings())
        losses.append(figures["critic/d_loss"])
        with torch.no_grad():
            for name, value in scorer.model.named_parameters():
                value -= LR * gradients[verl_name(name)]

    learned = discriminator.update()

    assert learned["critic/d_loss"] == pytest.approx(sum(losses) / 4, rel=1e-5)
    assert max(losses) - min(losses) > 1e-3  # the steps are far enough from one another to be told apart
    after = weights_of(worker)
    for name, value in scorer.model.named_parameters():
        torch.testing.assert_close(after[verl_name(name)], value.detach(), rtol=1e-4, atol=1e-6, msg=name)


def test_the_rate_moves_on_once_a_batch(worker: TrainingWorker, fresh: dict[str, Tensor], sample: Sample) -> None:
    del fresh
    before = worker.engine.lr_scheduler.last_epoch
    discriminator = Discriminator(worker, GadSettings(), CUTS["all at once"], prompts_per_step=1)
    discriminator.score(sample.students, sample.teachers, sample.group_index)
    discriminator.update()
    assert worker.engine.lr_scheduler.last_epoch == before + 1
