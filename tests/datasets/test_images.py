from __future__ import annotations

import contextlib
import gc
import multiprocessing
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from thinet.datasets.images import FileImages, ImageView, TensorImages
from thinet.datasets.loader import EpochLoader
from thinet.datasets.reading import ImageError, clean_worker_error, find_unreadable, read_image
from thinet.datasets.transforms import Preprocessing
from thinet.datasets.unreadable import UnreadableImages


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "1", "CMYK"])
def test_every_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("x.tif" if mode == "CMYK" else "x.png")
    Image.new("RGB", (5, 4), (200, 100, 50)).convert(mode).save(path)
    image = read_image(str(path))
    assert (image.mode, image.size) == ("RGB", (5, 4))


def test_grey_is_repeated() -> None:
    images = TensorImages(torch.rand(2, 1, 4, 4), [0, 1])
    assert torch.equal(images.load(1), images.images[1].repeat(3, 1, 1))


def broken_files(folder: Path) -> list[str]:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    paths = [folder / name for name in ("cut.jpg", "text.jpg", "empty.jpg", "cut.png")]
    for path in paths:
        Image.fromarray(pixels).save(path)
    for path in (paths[0], paths[3]):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    paths[1].write_text("no image")
    paths[2].write_bytes(b"")
    return [*map(str, paths), str(folder / "missing.jpg")]


def test_broken_files_are_named_in_one_sentence(tmp_path: Path) -> None:
    for path in broken_files(tmp_path):
        with pytest.raises(ImageError) as caught:
            read_image(path)
        assert path in str(caught.value)
        assert "repeat the command" in str(caught.value)
        assert "\n" not in str(caught.value)
        assert find_unreadable([path]) == [caught.value.unreadable]


@pytest.mark.parametrize("workers", [0, 2])
def test_the_sentence_survives_the_worker_process(tmp_path: Path, workers: int) -> None:
    path = broken_files(tmp_path)[0]
    view = ImageView(FileImages([path], [0]), [0, 0, 0], Preprocessing(32).evaluation())
    sentences = []
    try:  # pytest.raises would keep the loader alive in a reference cycle
        list(EpochLoader(view, UnreadableImages(0), num_workers=workers, batch_size=3))
    except ImageError as error:
        sentences = [str(error), str(pickle.loads(pickle.dumps(error)))]
    assert len(sentences) == 2
    for sentence in sentences:
        assert sentence.startswith(
            f"none of the 3 images of a batch can be read, the first is {path}"
        )
        assert "\n" not in sentence


def test_workers_end_by_themselves_after_an_error(tmp_path: Path, monkeypatch) -> None:
    path = broken_files(tmp_path)[1]
    view = ImageView(FileImages([path], [0]), [0, 0, 0], Preprocessing(32).evaluation())
    workers, start = [], multiprocessing.Process.start

    def note(process: multiprocessing.Process) -> None:
        workers.append(process)
        start(process)

    monkeypatch.setattr(multiprocessing.Process, "start", note)
    with contextlib.suppress(ImageError):
        list(EpochLoader(view, UnreadableImages(0), num_workers=2))
    gc.collect()  # the loader waits for its workers, and then ends them by force
    assert [worker.exitcode for worker in workers] == [0, 0]


def test_other_messages_are_left_alone() -> None:
    assert clean_worker_error("image a: b cannot be read") == "image a: b cannot be read"


def test_paths_of_any_characters_come_back(tmp_path: Path) -> None:
    paths = ["/a/b.jpg", "/längere/ünïcode 图.jpg", "/c.png"]
    images = FileImages(paths, [0, 1, 2])
    assert [images.path(i) for i in range(3)] == paths


def test_augmentation_comes_from_the_pair_and_leaves_the_generator_alone() -> None:
    images = TensorImages(torch.rand(4, 3, 32, 32), [0, 1, 2, 3])
    view = ImageView(images, [3, 1], Preprocessing(32).training())
    torch.manual_seed(5)
    first, label = view[(0, 11)]
    drawn = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(1), drawn)
    assert label == 3
    assert torch.equal(view[(0, 11)][0], first)
    assert any(not torch.equal(view[(0, seed)][0], first) for seed in range(3))


def folder_of(root, colours, size=(4, 4)):
    """Bitmaps of one size in two folders, and their digest."""
    paths = []
    for number, colour in enumerate(colours):
        path = root / f"class{number % 2}" / f"{number}.bmp"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, colour).save(path)
        paths.append(str(path))
    return FileImages(paths, [number % 2 for number in range(len(paths))]).digest()


def test_the_same_images_elsewhere_are_the_same_and_others_are_not(tmp_path):
    first = folder_of(tmp_path / "a", ["red", "green", "blue"])
    assert folder_of(tmp_path / "some" / "where" / "else", ["red", "green", "blue"]) == first
    assert folder_of(tmp_path / "b", ["red", "green", "black"]) != first  # files of equal size
    assert folder_of(tmp_path / "c", ["red", "green", "blue"], (5, 4)) != first
    assert folder_of(tmp_path / "d", ["red", "green"]) != first
    assert FileImages([], []).digest() == FileImages([], []).digest() != first
    (tmp_path / "a" / "class0" / "0.bmp").unlink()
    paths = [str(tmp_path / "a" / f"class{n % 2}" / f"{n}.bmp") for n in range(3)]
    assert FileImages(paths, [0, 1, 0]).digest() != first  # a missing one is no error
    assert FileImages(paths[1:2], [0]).digest() == FileImages(paths[1:2], [0]).digest()
