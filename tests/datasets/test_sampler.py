from __future__ import annotations

import pytest
import torch

from thinet.datasets.sampler import EpochBatches, EpochSampler, TrainingOrder, eval_batches
from thinet.datasets.steps import StepSampler


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


class Odd(EpochBatches):
    """Two batches of five images, one of them twice."""

    def batches(self, random: torch.Generator) -> list[list[int]]:
        order = torch.randperm(len(self.labels), generator=random).tolist()
        return [order[:5], [*order[:1], *order[5:9]]]


def test_batches_of_ones_own_are_shared_out():
    def batches(epoch, rank=0, world=1):
        return list(Odd(range(9), 5, TrainingOrder(3, "a", epoch, rank, world)))

    whole = batches(0)
    for batch, *parts in zip(whole, batches(0, 0, 2), batches(0, 1, 2), strict=True):
        assert parts == [batch[0:4:2], batch[1:4:2]]  # the fifth has no partner
    seeds = [seed for batch in whole for _, seed in batch]
    assert len(set(seeds)) == 10, "an image that comes twice is augmented in two ways"
    assert batches(0) == whole
    assert batches(1) != whole
    assert len(Odd(range(9), 5, TrainingOrder(3, "a"))) == 2


def test_steps_without_images_have_seeds_of_their_own():
    found = [
        step
        for epoch, rank in ((0, 0), (1, 0), (0, 1))
        for step in StepSampler(4, TrainingOrder(3, "a", epoch, rank, 2))
    ]
    assert [step.number for step in found] == [0, 1, 2, 3] * 3
    assert len({step.seed for step in found}) == 12
