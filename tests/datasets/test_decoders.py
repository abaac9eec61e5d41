from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from thinet.config import check
from thinet.datasets.decoders import find_reader
from thinet.datasets.folder import Folder
from thinet.datasets.images import ImageError, read_image
from thinet.datasets.transforms import RESIZE, Preprocessing
from thinet.errors import ThinetError
from thinet.identity import baseline_fingerprint, fingerprint

PIXELS = {"mean": (0, 0, 0), "std": (1, 1, 1)}


@pytest.fixture(scope="module")
def fast():
    pytest.importorskip("torchcodec", reason="the extra 'fast' is not installed")
    return find_reader("torchcodec")


def picture(seed: int, width: int = 200, height: int = 150) -> Image.Image:
    """Smooth shapes, as in a photograph, and some grain."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    smooth = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    grain = rng.normal(0, 4, (height, width, 3))
    return Image.fromarray(np.clip(np.asarray(smooth) + grain, 0, 255).astype(np.uint8))


def save(path: Path, image: Image.Image, kind: str = "JPEG", **options: object) -> str:
    image.save(path, kind, **options)
    return str(path)


def levels(image: Image.Image | Tensor) -> np.ndarray:
    """Grey levels (3, H, W)."""
    array = np.asarray(image).transpose(2, 0, 1) if isinstance(image, Image.Image) else image
    return np.asarray(array, dtype=np.float64)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("options", [{}, {"subsampling": 0}, {"progressive": True}])
def test_every_jpeg_has_three_channels_and_pillow_s_pixels(fast, tmp_path, mode, options) -> None:
    path = save(tmp_path / "x.jpg", picture(1).convert(mode), quality=90, **options)
    found = fast(path)
    assert isinstance(found, Tensor), "TorchCodec decodes JPEGs"
    assert found.shape == (3, 150, 200)
    assert found.dtype == torch.uint8
    assert np.abs(levels(found) - levels(read_image(path))).mean() < 0.01


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_pixels_stay_as_they_are_stored_whatever_exif_says(fast, tmp_path, orientation) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / "x.jpg", picture(2), exif=exif)
    assert np.abs(levels(fast(path)) - levels(read_image(path))).mean() < 0.01


@pytest.mark.parametrize(
    ("kind", "mode"), [("PNG", "P"), ("PNG", "RGBA"), ("GIF", "P"), ("BMP", "RGB"), ("PNG", "LA")]
)
def test_what_is_called_jpg_and_is_not_is_pillow_s(fast, tmp_path, kind, mode) -> None:
    path = save(tmp_path / "x.jpg", picture(3).convert(mode), kind)
    assert np.array_equal(levels(fast(path)), levels(read_image(path)))


def test_broken_files_are_named_by_the_same_sentence(fast, tmp_path) -> None:
    whole = Path(save(tmp_path / "whole.jpg", picture(4))).read_bytes()
    files = {"cut.jpg": whole[: len(whole) // 2], "text.jpg": b"no image", "empty.jpg": b"",
             "head.jpg": whole[:20]}  # fmt: skip
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    for name in [*files, "missing.jpg"]:
        sentences = []
        for read in (fast, read_image):
            with pytest.raises(ImageError) as caught:
                read(str(tmp_path / name))
            sentences.append(str(caught.value))
        assert sentences[0] == sentences[1]
        assert name in sentences[0]


@pytest.mark.parametrize("crop", ["evaluation", "random", "random_resized", "pad", "none"])
@pytest.mark.parametrize("resize", RESIZE[1:])
def test_the_same_crops_of_nearly_the_same_pixels(fast, tmp_path, resize, crop) -> None:
    path = save(tmp_path / "x.jpg", picture(5), quality=90)
    rule = Preprocessing(96, resize, "auto" if crop == "evaluation" else crop, **PIXELS)
    transform = rule.evaluation() if crop == "evaluation" else rule.training()
    for seed in range(5):
        seen = []
        for read in (fast, read_image):
            torch.manual_seed(seed)
            seen.append(transform(read(path)))
        assert type(seen[0]) is Tensor
        assert seen[0].shape == seen[1].shape == (3, 96, 96)
        far = 255 * (seen[0] - seen[1]).abs()
        # resizing rounds some pixels the other way; another crop or mirror is tens of levels off
        assert far.max() < 1.01
        assert far.mean() < 0.1


def write(tree: Path) -> Path:
    for part, each in (("train", 8), ("test", 3)):
        for label in range(3):
            folder = tree / part / f"class{label}"
            folder.mkdir(parents=True)
            for number in range(each):
                save(folder / f"{number}.jpg", picture(100 * label + number, 60, 45))
    return tree


@pytest.mark.parametrize("workers", [0, 2])
def test_split_order_and_augmentation_do_not_depend_on_the_loader(fast, tmp_path, workers) -> None:
    root = write(tmp_path / "tree")

    def data(loader: str, workers: int = 0) -> Folder:
        return Folder(
            root=str(root), image_size=32, batch_size=5, val_fraction=0.3, crop="random_resized",
            num_workers=workers, loader=loader, **PIXELS,
        )  # fmt: skip

    usual, quick = data("pil"), data("torchcodec", workers)
    for name in ("train_dataloader", "val_dataloader", "test_dataloader"):
        pairs = zip(getattr(usual, name)(), getattr(quick, name)(), strict=True)
        for (images, labels), (others, same) in pairs:
            assert torch.equal(labels, same)
            assert images.stride() == others.stride()
            assert 255 * (images - others).abs().mean() < 0.1
    (images, labels), (others, same) = usual.calibration()[0], quick.calibration()[0]
    assert labels == same
    assert (images - others).abs().max() > 0, "both loaders read by the same code"
    again = data("torchcodec")
    for (images, _), (others, _) in zip(
        quick.train_dataloader(), again.train_dataloader(), strict=True
    ):
        assert torch.equal(images, others), "the same run twice"


@pytest.mark.parametrize("option", ["cub200", "folder", "imagenet", "indoor67"])
def test_another_loader_is_another_run(compose, option) -> None:
    usual, quick = (compose(f"dataset={option}", f"dataset.loader={x}") for x in ("pil", "other"))
    assert fingerprint(compose(f"dataset={option}")) == fingerprint(usual), "pil is the default"
    assert fingerprint(usual) != fingerprint(quick)
    assert baseline_fingerprint(check(usual), None) != baseline_fingerprint(check(quick), None)


def test_an_unknown_loader_is_refused_with_the_choices() -> None:
    with pytest.raises(ThinetError, match=r"^dataset\.loader=dali is unknown: .*=pil\|torchcodec"):
        Folder(image_size=32, loader="dali")


def test_a_missing_library_is_one_sentence(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", None)
    with pytest.raises(
        ThinetError, match=r"type pip install 'thinet\[fast\]', or dataset"
    ) as caught:
        Folder(image_size=32, loader="torchcodec")
    assert "\n" not in str(caught.value)


def test_pillow_is_the_default(tmp_path) -> None:
    buffer = io.BytesIO()
    picture(6).save(buffer, "JPEG")
    (tmp_path / "x.jpg").write_bytes(buffer.getvalue())
    read = Folder(image_size=32).read
    assert isinstance(read(str(tmp_path / "x.jpg")), Image.Image)
