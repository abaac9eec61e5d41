"""Noise derives from its place alone, and processes share out what one would draw."""

from __future__ import annotations

import pytest
import torch

from thinet.datasets.steps import Step
from thinet.synthesis import noise as module
from thinet.synthesis.noise import Noise

STEP = Step(2, 7, 99)


@pytest.fixture
def as_process(monkeypatch):
    """``as_process(rank, world)``"""

    def become(rank: int, world: int) -> None:
        monkeypatch.setattr(module, "place", lambda: (rank, world))

    return become


def test_alone_a_process_draws_everything():
    assert module.place() == (0, 1)
    assert Noise(1, 6).rows == 6
    assert Noise(1, 6).draw(STEP, 0, 4).shape == (6, 4)


@pytest.mark.parametrize("world", [2, 3, 6])
def test_rows_of_all_processes_are_those_of_one(world, as_process):
    noise = Noise(1, 6)
    wanted = noise.draw(STEP, 0, 2, 3), noise.places(STEP, 5)
    found = []
    for rank in range(world):
        as_process(rank, world)
        assert noise.rows == 6 // world
        # Each process has a seed of its own for its step, and its own random state.
        torch.manual_seed(rank)
        step = STEP._replace(seed=rank)
        found.append((noise.draw(step, 0, 2, 3), noise.places(step, 5)))
    for whole, *parts in zip(wanted, *found, strict=True):
        assert torch.equal(torch.cat(parts), whole)
        assert len(whole.unique()) == whole.numel(), "rows are alike"


def test_other_places_have_other_noise():
    noise = Noise(1, 2)
    drawn = [
        noise.draw(STEP, 0, 3), noise.draw(STEP, 1, 3), noise.draw(STEP._replace(number=8), 0, 3),
        noise.draw(STEP._replace(epoch=3), 0, 3), Noise(2, 2).draw(STEP, 0, 3),
    ]  # fmt: skip
    assert len({tuple(one.flatten().tolist()) for one in drawn}) == len(drawn)
    assert torch.equal(noise.draw(STEP, 0, 3), drawn[0])


def test_it_is_normal():
    drawn = Noise(1, 4000).draw(STEP, 0, 5)
    assert drawn.mean().abs() < 0.03
    assert drawn.std().sub(1).abs() < 0.03


def test_a_batch_that_cannot_be_shared_out(as_process):
    as_process(0, 4)
    with pytest.raises(ValueError, match="6 images for 4 processes"):
        Noise(1, 6).draw(STEP, 0, 3)


@pytest.mark.parametrize(("share", "parts"), [(0.5, 1), (0.5, 2), (0.3, 2), (0.9, 3), (0.0, 0)])
def test_a_share_lies_evenly_over_the_processes(share, parts, as_process):
    noise, world = Noise(1, 24), 4
    whole = noise.deal(share, parts)
    assert sorted(torch.cat(whole).tolist()) == list(range(24))
    assert len(whole) == 1 + parts
    count = int(share * 24)
    sizes = [len(one) for one in whole[1:]]
    assert sum(sizes) == count
    assert not parts or max(sizes) - min(sizes) <= 1
    together = [[] for _ in whole]
    for rank in range(world):
        as_process(rank, world)
        own = noise.deal(share, parts)
        assert abs(24 // world - len(own[0]) - count / world) <= 1
        for one, part in zip(together, own, strict=True):
            one += (part + rank * 6).tolist()
    assert together == [one.tolist() for one in whole]
