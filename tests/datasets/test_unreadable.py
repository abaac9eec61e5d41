"""Images that cannot be decoded are left out and counted; too many are an error that names them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from thinet.base.errors import ThinetError
from thinet.datasets.folder import Folder
from thinet.datasets.images import ImageView

Tree = Callable[..., Path]
LAYOUT = {"train/cat": 30, "train/dog": 30, "test/cat": 20, "test/dog": 20}


def folder(root: Path, **more: object) -> Folder:
    settings = {"image_size": 8, "batch_size": 10, "crop": "none", "flip": False, **more}
    return Folder(root=str(root), **settings)


def spoil(root: Path, *names: str) -> list[str]:
    for name in names:
        (root / name).write_bytes(b"no image")
    return [str(root / name) for name in names]


@pytest.mark.parametrize("workers", [0, 2])
def test_the_others_are_what_a_set_without_them_gives(tree: Tree, workers: int) -> None:
    root = tree(LAYOUT)
    whole = folder(root)
    whole.setup()
    wanted = {id: image for id, (image, _) in enumerate(whole._test)}
    bad = spoil(root, "test/cat/0003.jpg", "test/dog/0019.jpg")
    data = folder(root, max_unreadable=0.05, num_workers=workers)
    batches = list(data.test_dataloader())
    images = torch.cat([batch for batch, _ in batches])
    left = [wanted[place] for place in range(40) if place not in (3, 39)]
    assert torch.equal(images, torch.stack(left))
    assert [len(batch) for batch, _ in batches] == [9, 10, 10, 9]
    assert torch.cat([labels for _, labels in batches]).tolist() == [0] * 19 + [1] * 19
    assert sorted(data.unreadable.found) == sorted(bad)


def test_an_epoch_keeps_its_steps_and_order(tree: Tree) -> None:
    root = tree(LAYOUT)
    whole, data = folder(root), folder(root, max_unreadable=0.5)
    before = list(whole.train_dataloader())
    spoil(root, *[f"train/cat/{number:04}.jpg" for number in range(5)])
    after = list(data.train_dataloader())
    assert len(after) == len(before)
    assert sum(len(labels) for _, labels in after) >= sum(len(x) for _, x in before) - 5
    for (images, _), (fewer, _) in zip(before, after, strict=True):
        rows = {tuple(image.flatten().tolist()) for image in images}
        assert all(tuple(image.flatten().tolist()) in rows for image in fewer)


def test_too_many_are_an_error_that_names_them_before_any_work(tree: Tree) -> None:
    root = tree(LAYOUT)
    bad = spoil(root, *[f"test/dog/{number:04}.jpg" for number in range(7)])
    with pytest.raises(ThinetError) as caught:
        folder(root, max_unreadable=0.05).setup()
    sentence = str(caught.value)
    assert sentence.startswith("7 of 100 images cannot be read, 5 may be: ")
    assert sum(path in sentence for path in bad) == 5
    assert "and 2 more" in sentence
    assert "type dataset.max_unreadable=0.1 " in sentence
    folder(root, max_unreadable=0.1).setup()


def test_too_many_in_mid_epoch_are_an_error_too(tree: Tree) -> None:
    root = tree(LAYOUT)
    data = folder(root, max_unreadable=0.01, num_workers=1)
    data.setup()
    bad = spoil(root, "test/dog/0001.jpg", "test/dog/0002.jpg")
    with pytest.raises(ThinetError, match="2 of 100 images cannot be read, 1 may be") as caught:
        list(data.test_dataloader())
    assert all(path in str(caught.value) for path in bad)


def test_a_file_is_counted_once(tree: Tree, caplog: pytest.LogCaptureFixture) -> None:
    root = tree(LAYOUT)
    spoil(root, "test/dog/0001.jpg")
    data = folder(root, max_unreadable=0.01)
    for _ in range(3):
        list(data.test_dataloader())
    assert len(data.unreadable.found) == 1


def test_examples_are_readable(tree: Tree) -> None:
    root = tree(LAYOUT)
    view = folder(root).calibration()
    wanted = torch.stack([view[1][0], view[len(view) - 2][0]])
    spoil(root, *(f"train/{path}" for path in paths_of(view, [0, -1])))
    assert torch.equal(folder(root, max_unreadable=0.1).examples(), wanted)


def paths_of(view: ImageView, places: list[int]) -> list[str]:
    found = [view.images.path(int(view.positions[place])) for place in places]
    return [str(Path(path).relative_to(Path(path).parents[1])) for path in found]


def test_a_batch_without_any_readable_image_is_an_error(tree: Tree) -> None:
    root = tree({"train/cat": 30, "train/dog": 30, "test/cat": 20, "test/dog": 2})
    data = folder(root, max_unreadable=0.9)
    data.setup()
    spoil(root, *[f"test/cat/{number:04}.jpg" for number in range(20)])
    with pytest.raises(ThinetError, match=r"none of the .* images of a batch can be read"):
        list(data.test_dataloader())


@pytest.mark.parametrize("fraction", [-0.1, 1, 7])
def test_a_fraction_out_of_range_is_refused(tree: Tree, fraction: float) -> None:
    with pytest.raises(ThinetError, match=r"dataset\.max_unreadable=0\.001"):
        folder(tree(LAYOUT), max_unreadable=fraction)


def grow(root: Path) -> None:
    (root / "train/cat/new.jpg").write_bytes((root / "train/cat/0000.jpg").read_bytes())


def shrink(root: Path) -> None:
    (root / "train/dog/0007.jpg").unlink()


def move(root: Path) -> None:
    (root / "train/cat/0007.jpg").rename(root / "train/dog/0007b.jpg")


def rewrite(root: Path) -> None:
    path = root / "train/dog/0011.jpg"
    path.write_bytes(path.read_bytes() + b"0")


@pytest.mark.parametrize("change", [grow, shrink, move, rewrite])
def test_the_identity_tells_a_changed_set(tree: Tree, change: Callable[[Path], None]) -> None:
    root = tree(LAYOUT)
    before = folder(root).identity()
    assert folder(root).identity() == before
    change(root)
    after = folder(root).identity()
    assert after["train"] != before["train"]
    assert after["test"] == before["test"]
