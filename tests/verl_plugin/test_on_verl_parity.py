"""verl's critic worker under the plugin against this package's own discriminator, on the same tokens."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor
from verl.workers.engine_workers import TrainingWorker
from verl_critic import LR, Sample, critic_worker, make_sample, own_scorer, own_step, verl_name, weights_of

from gspo.groups import GroupBatch
from gspo.integrations.verl.discriminator import Discriminator
from gspo.integrations.verl.rows import Cut
from gspo.integrations.verl.settings import GadSettings


@pytest.fixture(scope="module")
def sample() -> Sample:
    return make_sample()


@pytest.fixture(scope="module")
def worker(tiny_model_folder: Path) -> Iterator[TrainingWorker]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with critic_worker(tiny_model_folder, 0, 1, port) as worker:
        yield worker


@pytest.fixture
def fresh(worker: TrainingWorker) -> Iterator[dict[str, Tensor]]:
    """The worker's weights, which are put back afterwards."""
    before = weights_of(worker)
    yield before
    for name, value in worker.engine.module.named_parameters():
        with torch.no_grad():
            value.to_local().copy_(before[name])


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
