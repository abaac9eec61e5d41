from __future__ import annotations

import io
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from thinet.app.config import check
from thinet.base.errors import ThinetError
from thinet.datasets.decoders import find_reader
from thinet.datasets.folder import Folder
from thinet.datasets.reading import ImageError, find_unreadable, read_image
from thinet.datasets.transforms import RESIZE, Preprocessing
from thinet.run.identity import baseline_fingerprint, fingerprint

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


@pytest.mark.parametrize("option", ["celeba", "cub200", "folder", "imagenet", "indoor67"])
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


@pytest.fixture(params=["pil", "torchcodec"])
def reader(request):
    if request.param == "torchcodec":
        pytest.importorskip("torchcodec", reason="the extra 'fast' is not installed")
    return find_reader(request.param)


def deep(bits: int = 16) -> np.ndarray:
    """Grey levels of so many bits, from black to white."""
    return np.linspace(0, 2**bits - 1, 40 * 30).round().astype(np.uint16).reshape(30, 40)


def png(array: np.ndarray) -> bytes:
    """A PNG of 16 bits, grey or in colours, by hand (PNG 1.2): Pillow writes none in colours."""
    height, width = array.shape[:2]

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 16, 2 if array.ndim == 3 else 0, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in array)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )  # fmt: skip


def tiff(array: np.ndarray, bits: int, photometric: int, order: str = "<") -> bytes:
    """An uncompressed grey or coloured TIFF by hand (TIFF 6.0)."""
    height, width = array.shape[:2]
    samples = 3 if array.ndim == 3 else 1
    if bits == 12:  # two levels in three bytes
        a, b = array.reshape(-1, 2).astype(int).T
        data = np.stack([a >> 4, (a & 15) << 4 | b >> 8, b & 255], 1).astype(np.uint8).tobytes()
    else:
        data = array.astype(f"{order}u2").tobytes()
    start = 8 + 2 + 9 * 12 + 4
    depth = (3, samples, start if samples == 3 else bits)
    fields = {
        256: (4, 1, width), 257: (4, 1, height), 258: depth, 259: (3, 1, 1),
        262: (3, 1, photometric), 273: (4, 1, start + 6), 277: (3, 1, samples),
        278: (4, 1, height), 279: (4, 1, len(data)),
    }  # fmt: skip

    def entry(tag: int, kind: int, count: int, value: int) -> bytes:
        short = kind == 3 and count == 1
        packed = struct.pack(f"{order}HH", value, 0) if short else struct.pack(f"{order}I", value)
        return struct.pack(f"{order}HHI", tag, kind, count) + packed

    head = b"II*\0" if order == "<" else b"MM\0*"
    body = b"".join(entry(tag, *field) for tag, field in fields.items())
    return (
        head + struct.pack(f"{order}I", 8) + struct.pack(f"{order}H", len(fields)) + body
        + struct.pack(f"{order}I", 0) + struct.pack(f"{order}HHH", bits, bits, bits) + data
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["png", "tiff <", "tiff >"])
def test_sixteen_bits_become_the_upper_eight(reader, tmp_path, kind):
    grey = deep()
    colours = np.stack([grey, grey[::-1], grey[:, ::-1]], 2)
    for array in (grey, colours):
        path = tmp_path / f"{array.ndim}"
        name, _, order = kind.partition(" ")
        colour = 2 if array.ndim == 3 else 1
        path.write_bytes(png(array) if name == "png" else tiff(array, 16, colour, order))
        wanted = np.broadcast_to(np.atleast_3d(array // 256), (30, 40, 3)).transpose(2, 0, 1)
        assert np.array_equal(levels(reader(str(path))), wanted)
        assert not find_unreadable([str(path)])


def test_every_format_of_sixteen_bits_that_pillow_writes(reader, tmp_path):
    for kind in ("PNG", "TIFF", "PPM"):
        path = save(tmp_path / f"x.{kind}", Image.fromarray(deep()), kind)
        assert np.array_equal(levels(reader(path))[0], deep() // 256)


def test_tiffs_of_twelve_bits_and_of_ink(reader, tmp_path):
    for number, (bits, photometric) in enumerate([(12, 1), (16, 0)]):
        path = tmp_path / str(number)
        path.write_bytes(tiff(deep(bits), bits, photometric))
        wanted = deep(bits) >> (bits - 8)
        wanted = wanted if photometric else 255 - wanted
        assert np.array_equal(levels(reader(str(path)))[1], wanted)


def test_levels_without_a_known_range_are_unreadable(reader, tmp_path):
    for number, dtype in enumerate((np.float32, np.int32)):
        path = save(tmp_path / f"{number}.tif", Image.fromarray(deep().astype(dtype)), "TIFF")
        with pytest.raises(ImageError, match="numbers of 32 bits, which have no range") as caught:
            reader(path)
        assert path in str(caught.value)
        assert [one.path for one in find_unreadable([path])] == [path]
