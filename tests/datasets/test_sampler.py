from __future__ import annotations

import pytest

from thinet.datasets.sampler import EpochSampler, eval_batches


@pytest.mark.parametrize("world", [1, 2, 3, 4])
@pytest.mark.parametrize("batch_size", [2, 5, 8])
@pytest.mark.parametrize("length", [4, 15, 16, 17, 33])
def test_eval_batches_cover_all_once_with_equal_counts(
    length: int, batch_size: int, world: int
) -> None:
    ranks = [eval_batches(length, batch_size, rank, world) for rank in range(world)]
    for rank, batches in enumerate(ranks):
        flat = [i for batch in batches for i in batch]
        assert flat == list(range(length))[rank::world]
        assert all(0 < len(batch) <= batch_size for batch in batches)
    assert len({len(batches) for batches in ranks}) == 1


def test_order_is_a_permutation_that_depends_on_seed_stage_and_epoch() -> None:
    def order(seed: int = 0, stage: str = "a", epoch: int = 0) -> list[int]:
        return [position for position, _ in EpochSampler(40, seed, stage, epoch)]

    first = order()
    assert sorted(first) == list(range(40))
    assert order() == first
    for other in (order(seed=1), order(stage="b"), order(epoch=1)):
        assert sorted(other) == list(range(40))
        assert other != first


def test_set_epoch_equals_starting_there() -> None:
    sampler = EpochSampler(20, 0, "a")
    sampler.set_epoch(7)
    assert list(sampler) == list(EpochSampler(20, 0, "a", epoch=7))


def test_ranks_together_make_the_steps_of_one_process() -> None:
    alone = list(EpochSampler(41, 0, "a"))
    ranks = [list(EpochSampler(41, 0, "a", rank=rank, world=4)) for rank in range(4)]
    assert [len(rank) for rank in ranks] == [10] * 4
    for step in range(5):
        together = {pair for rank in ranks for pair in rank[2 * step : 2 * step + 2]}
        assert together == set(alone[8 * step : 8 * step + 8])


def test_every_image_of_every_epoch_has_an_augmentation_seed_of_its_own() -> None:
    seeds = {seed for epoch in range(3) for _, seed in EpochSampler(50, 0, "a", epoch)}
    assert len(seeds) == 150
