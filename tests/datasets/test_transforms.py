from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from thinet.base.errors import ThinetError
from thinet.datasets.transforms import CROP, RESIZE, Preprocessing

MEAN, STD = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)


def picture(width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def by_hand(image: Image.Image, resized: tuple[int, int], size: int) -> np.ndarray:
    """Resize with Pillow, centre crop and normalise with NumPy."""
    image = image.resize(resized, Image.Resampling.BILINEAR)
    left, top = round((resized[0] - size) / 2), round((resized[1] - size) / 2)
    pixels = np.asarray(image.crop((left, top, left + size, top + size)), dtype=np.float64) / 255
    return ((pixels - MEAN) / STD).transpose(2, 0, 1)


@pytest.mark.parametrize(
    ("size", "resize", "resized"),
    [
        (224, "keep", (384, 256)),
        (224, "auto", (384, 256)),
        (224, "fixed", (256, 256)),
        (224, "none", (224, 224)),
        (32, "auto", (32, 32)),
        (112, "keep", (192, 128)),
    ],
)
def test_evaluation_equals_pillow_and_numpy(
    size: int, resize: str, resized: tuple[int, int]
) -> None:
    image = picture(300, 200)
    out = Preprocessing(size, resize=resize, mean=MEAN, std=STD).evaluation()(image)
    assert type(out) is torch.Tensor
    np.testing.assert_allclose(out.numpy(), by_hand(image, resized, size), atol=1e-5)


def test_an_image_of_the_right_size_is_not_resampled() -> None:
    image = picture(32, 32)
    out = Preprocessing(32, mean=(0, 0, 0), std=(1, 1, 1)).evaluation()(image)
    np.testing.assert_allclose(out.numpy(), np.asarray(image).transpose(2, 0, 1) / 255, atol=1e-6)


@pytest.mark.parametrize("resize", RESIZE)
@pytest.mark.parametrize("crop", CROP)
@pytest.mark.parametrize("size", [32, 80])
def test_training_has_the_input_size(size: int, crop: str, resize: str) -> None:
    out = Preprocessing(size, resize=resize, crop=crop).training()(picture(50, 90))
    assert out.shape == (3, size, size)
    assert out.dtype == torch.float32


def test_padding_shifts_by_at_most_an_eighth() -> None:
    ones = Image.fromarray(np.full((32, 32, 3), 255, np.uint8))
    transform = Preprocessing(32, flip=False, mean=(0, 0, 0), std=(1, 1, 1)).training()
    torch.manual_seed(0)
    filled = [(transform(ones)[0] == 1).any(dim=1).sum().item() for _ in range(200)]
    assert min(filled) == 28
    assert max(filled) == 32


def test_flip_mirrors_about_half_of_the_images() -> None:
    image = picture(32, 32)
    plain = Preprocessing(32, crop="none").evaluation()(image)
    transform = Preprocessing(32, crop="none", flip=True).training()
    torch.manual_seed(0)
    outs = [transform(image) for _ in range(100)]
    mirrored = sum(torch.equal(out, plain.flip(-1)) for out in outs)
    assert mirrored + sum(torch.equal(out, plain) for out in outs) == 100
    assert 30 < mirrored < 70


@pytest.mark.parametrize("key", ["resize", "crop"])
def test_unknown_word_is_refused_with_the_choices(key: str) -> None:
    with pytest.raises(ThinetError, match=rf"dataset\.{key}=keeep is unknown.*auto\|"):
        Preprocessing(32, **{key: "keeep"})
