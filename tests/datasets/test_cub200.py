from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from thinet.base.errors import ThinetError
from thinet.datasets.cub200 import CUB200

PER_CLASS = 4


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CUB_200_2011 as unpacked: 200 classes of four images, the even ones for training."""
    root = tmp_path_factory.mktemp("cub") / "CUB_200_2011"
    (root / "images").mkdir(parents=True)
    Image.new("RGB", (15, 10), (1, 2, 3)).save(root / "one.jpg")
    one = (root / "one.jpg").read_bytes()
    (root / "one.jpg").unlink()
    images, labels, parts, number = [], [], [], 0
    for label in range(1, 201):
        name = f"{label:03}.Some_bird_{label}"
        (root / "images" / name).mkdir()
        for _ in range(PER_CLASS):
            number += 1
            file = f"{name}/Some_Bird_{number:04}_{number * 7}.jpg"
            (root / "images" / file).write_bytes(one)
            images.append(f"{number} {file}")
            labels.append(f"{number} {label}")
            parts.append(f"{number} {number % 2}")
    (root / "images.txt").write_text("\n".join(images) + "\n")
    (root / "image_class_labels.txt").write_text("\n".join(labels) + "\n")
    (root / "train_test_split.txt").write_text("\n".join(parts) + "\n")
    return root


def cub(root: Path) -> CUB200:
    return CUB200(root=str(root), image_size=16, num_classes=200, val_fraction=0.5)


@pytest.mark.parametrize("above", [False, True])
def test_the_published_layout(archive: Path, above: bool) -> None:
    data = cub(archive.parent if above else archive)
    data.setup()
    assert data.classes == sorted(path.name for path in (archive / "images").iterdir())
    test = data.test_dataloader().dataset
    # every even image id is a test image, and the fixture gives class c the ids 4c+1 ... 4c+4
    ids = [int(test.images.path(i).split("_")[-2]) for i in range(len(test))]
    assert ids == list(range(2, 801, 2))
    assert test.labels == [(number - 1) // PER_CLASS for number in ids]
    assert data.val_dataloader().dataset.labels == list(range(200))
    assert tuple(test[0][0].shape) == (3, 16, 16)


def lines(name: str, change: Callable[[list[str]], list[str]]) -> Callable[[Path], None]:
    def spoil(root: Path) -> None:
        path = root / name
        path.write_text("\n".join(change(path.read_text().splitlines())))

    return spoil


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda root: (root / "images.txt").unlink(), r"is not CUB-200-2011: expected"),
        (lambda root: (root / "train_test_split.txt").unlink(), r"split\.txt is missing: expected"),
        (lines("image_class_labels.txt", lambda x: x[:-1]), r"id 800 is in one only"),
        (lines("image_class_labels.txt", lambda x: x[:-4] + [f"{i} 201" for i in range(797, 801)]),
         r"200 classes from 1 to 201 instead of 1 to 200"),
        (lines("image_class_labels.txt", lambda x: ["1 one", *x[1:]]), r"unexpected value"),
        (lines("train_test_split.txt", lambda x: ["1 2", *x[1:]]), r"unexpected value"),
        (lines("train_test_split.txt", lambda x: [f"{i} 1" for i in range(1, 801)]),
         r"leaves a class without test images"),
        (lines("images.txt", lambda x: ["nonsense", *x]), r"must be '<image id> <value>'"),
        (lines("images.txt", lambda x: ["1 001.Some_bird_1/gone.jpg", *x[1:]]),
         r"images/001\.Some_bird_1/gone\.jpg is listed but missing"),
        (lambda root: (root / "images").unlink(), r"is listed but missing"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_one_sentence(
    archive: Path, tmp_path: Path, spoil: Callable[[Path], object], words: str
) -> None:
    root = tmp_path / "CUB_200_2011"
    root.mkdir()
    for name in ("images.txt", "image_class_labels.txt", "train_test_split.txt"):
        shutil.copy(archive / name, root)
    (root / "images").symlink_to(archive / "images")
    cub(root).check()
    spoil(root)
    with pytest.raises(ThinetError, match=words) as caught:
        cub(root).check()
    assert "\n" not in str(caught.value)


def test_a_broken_image_is_named(archive: Path) -> None:
    path = archive / "images/001.Some_bird_1/Some_Bird_0001_7.jpg"
    content = path.read_bytes()
    path.write_bytes(b"x")
    try:
        with pytest.raises(ThinetError, match=rf"1 of \d+ images cannot be read, 0 may be: {path}"):
            cub(archive).setup()
    finally:
        path.write_bytes(content)


def test_no_root() -> None:
    with pytest.raises(ThinetError, match=r"type dataset\.root=<folder> \(expected .*CUB_200_2011"):
        CUB200(image_size=16).check()
