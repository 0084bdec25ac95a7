import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from messages import names

from gspo.data import PromptSampler, shard


def test_each_epoch_is_another_order_of_the_same_prompts() -> None:
    sampler = PromptSampler(10, 5, seed=3)
    epochs = [sampler.next_batch() + sampler.next_batch() for _ in range(3)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(10))] * 3
    assert epochs[0] != epochs[1] != epochs[2]
    assert (sampler.epoch, sampler.batch) == (3, 0)


def test_the_order_depends_on_seed_and_epoch_only() -> None:
    # Written down, so that an upgrade that changed the order, and with it every resumed run, would be seen.
    sampler = PromptSampler(8, 8, seed=1)
    assert [sampler.next_batch(), sampler.next_batch()] == [[2, 4, 7, 5, 0, 6, 3, 1], [5, 6, 3, 0, 7, 2, 1, 4]]
    by_two = PromptSampler(8, 2, seed=1)
    assert [index for _ in range(4) for index in by_two.next_batch()] == PromptSampler(8, 8, seed=1).next_batch()
    assert PromptSampler(8, 8, seed=2).next_batch() != PromptSampler(8, 8, seed=1).next_batch()


def test_without_shuffle_the_files_order_is_kept_and_the_rest_left_out() -> None:
    sampler = PromptSampler(5, 2, shuffle=False)
    assert [sampler.next_batch() for _ in range(3)] == [[0, 1], [2, 3], [0, 1]]
    assert sampler.batches_per_epoch == 2


@given(prompts=st.integers(1, 12), batch=st.integers(1, 12), taken=st.integers(0, 30), shuffle=st.booleans())
def test_a_resumed_sampler_goes_on_as_if_never_stopped(prompts: int, batch: int, taken: int, shuffle: bool) -> None:
    batch = min(batch, prompts)
    sampler = PromptSampler(prompts, batch, shuffle, seed=5)
    for _ in range(taken):
        sampler.next_batch()
    resumed = PromptSampler(prompts, batch, shuffle, seed=5)
    resumed.load_state_dict(json.loads(json.dumps(sampler.state_dict())))
    assert [resumed.next_batch() for _ in range(15)] == [sampler.next_batch() for _ in range(15)]
    assert resumed.state_dict() == sampler.state_dict()


@pytest.mark.parametrize(
    ("other", "difference"),
    [
        (PromptSampler(9, 2), "num_prompts=9 and the run has num_prompts=8"),
        (PromptSampler(8, 4), "batch_size=4 and the run has batch_size=2"),
        (PromptSampler(8, 2, shuffle=False), "shuffle=False and the run has shuffle=True"),
        (PromptSampler(8, 2, seed=7), "seed=7 and the run has seed=1"),
    ],
)
def test_the_state_of_another_run_is_refused(other: PromptSampler, difference: str) -> None:
    with pytest.raises(ValueError, match="the checkpoint was written with") as caught:
        PromptSampler(8, 2).load_state_dict(other.state_dict())
    assert names(caught, difference, "data.train_batch_size", "data.shuffle", "data.seed")


def test_a_damaged_state_is_refused() -> None:
    sampler = PromptSampler(8, 2)
    with pytest.raises(ValueError, match=r"^the sampler's state is damaged: epoch 0, batch 4$"):
        sampler.load_state_dict({**sampler.state_dict(), "batch": 4})
    with pytest.raises(ValueError, match=r"^the sampler's state has no 'seed': it was not written by this sampler$"):
        sampler.load_state_dict({key: value for key, value in sampler.state_dict().items() if key != "seed"})


def test_what_cannot_be_sampled() -> None:
    with pytest.raises(
        ValueError,
        match=r"^3 prompts do not fill one batch of data\.train_batch_size=4: set it to 3 or less, or add data$",
    ):
        PromptSampler(3, 4)
    with pytest.raises(
        ValueError, match=r"^a batch of 0 prompts cannot be made: set data\.train_batch_size to 1 or more$"
    ):
        PromptSampler(3, 0)
    with pytest.raises(ValueError, match=r"^the sampler's seed is -1: set data\.seed to 0 or more$"):
        PromptSampler(3, 1, seed=-1)


@given(st.integers(1, 20), st.integers(1, 20))
def test_shards_are_dealt_out_in_turn_and_cover_all(count: int, world: int) -> None:
    if count < world:
        with pytest.raises(ValueError, match=f"^{count} prompts cannot be shared by {world} ranks"):
            shard(range(count), 0, world)
        return
    parts = [list(shard(range(count), rank, world)) for rank in range(world)]
    assert parts == [list(range(rank, count, world)) for rank in range(world)]
    assert sorted(index for part in parts for index in part) == list(range(count))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_a_rank_outside_the_world() -> None:
    with pytest.raises(ValueError, match=r"^rank 2 is not in a world of 2$"):
        shard([1, 2, 3], 2, 2)
