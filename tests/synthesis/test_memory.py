"""What is kept of earlier images and generators."""

from __future__ import annotations

import pytest
import torch

from thinet.synthesis.memory import ImagePool, average_of


def images(*numbers: int) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.float32).view(-1, 1, 1, 1).expand(-1, 3, 2, 2)


def inside(pool: ImagePool) -> list[float]:
    return sorted(pool.images[: pool.filled, 0, 0, 0].tolist())


def test_the_oldest_make_room():
    pool = ImagePool(5, (3, 2, 2))
    assert pool.filled == 0
    pool.put(images(1, 2, 3))
    assert inside(pool) == [1, 2, 3]
    pool.put(images(4, 5, 6))
    assert inside(pool) == [2, 3, 4, 5, 6]
    pool.put(images(7, 8))
    assert inside(pool) == [4, 5, 6, 7, 8]
    pool.put(images(*range(9, 21)))
    assert inside(pool) == [16, 17, 18, 19, 20]
    pool.put(images(21))
    assert inside(pool) == [17, 18, 19, 20, 21], "after more than it holds, the oldest still goes"


def test_only_what_there_is_is_taken():
    pool = ImagePool(4, (3, 2, 2))
    pool.put(images(1, 2))
    taken = pool.take(torch.tensor([0, 1, 2, 3, 2**39 + 1]))
    assert taken[:, 0, 0, 0].tolist() == [1, 2, 1, 2, 2]
    assert taken.shape == (5, 3, 2, 2)
    pool.put(images(3, 4, 5))
    assert set(pool.take(torch.arange(40))[:, 0, 0, 0].tolist()) == {2, 3, 4, 5}


def test_it_keeps_copies_and_goes_into_a_checkpoint():
    pool, new = ImagePool(2, (3, 2, 2)), images(1, 2).clone().requires_grad_()
    pool.put(new)
    with torch.no_grad():
        new.fill_(9)
    assert inside(pool) == [1, 2]
    assert not pool.images.requires_grad
    other = ImagePool(2, (3, 2, 2))
    other.load_state_dict(pool.state_dict())
    other.put(images(3))
    assert inside(other) == [2, 3]


def test_halves_are_kept_in_full():
    pool = ImagePool(2, (3, 2, 2))
    pool.put(images(1).bfloat16())
    assert pool.images.dtype == torch.float32
    assert inside(pool) == [1]


def test_an_average_of_generators(make_generator):
    generator = make_generator()
    average = average_of(generator, 0.75)
    assert not any(parameter.requires_grad for parameter in average.parameters())
    assert all(parameter.requires_grad for parameter in generator.parameters())
    wanted = None
    for number in range(3):
        with torch.no_grad():
            for parameter in generator.parameters():
                parameter.add_(number + 1)
        now = generator.project[0].weight.detach().clone()
        wanted = now if wanted is None else 0.75 * wanted + 0.25 * now
        average.update_parameters(generator)
        torch.testing.assert_close(average.module.project[0].weight, wanted)
    noise = torch.randn(4, generator.latent)
    for own, mean in zip(generator.parameters(), average.parameters(), strict=True):
        own.data.copy_(mean)
    assert torch.equal(average(noise), generator(noise))
    assert "n_averaged" in average.state_dict(), "resumed, it would begin anew"


@pytest.mark.parametrize("shape", [(1, 4, 6), (3, 8, 8)])
def test_of_any_shape(shape):
    pool = ImagePool(3, shape)
    new = torch.rand(2, *shape)
    pool.put(new.to(memory_format=torch.channels_last))
    assert torch.equal(pool.take(torch.arange(2)), new)
