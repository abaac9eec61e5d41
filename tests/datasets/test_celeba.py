from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from thinet.base.errors import ThinetError
from thinet.datasets.celeba import ATTRIBUTES, IMAGES, PARTITION, CelebA

NAMES = ["5_o_Clock_Shadow", "Attractive", "Young"]


def is_attractive(number: int) -> bool:
    return number % 3 == 0


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """celeba/ as published: 24 faces, six for validation and six for testing."""
    root = tmp_path_factory.mktemp("faces") / "celeba"
    (root / IMAGES).mkdir(parents=True)
    rows, parts = ["24", " ".join(NAMES) + " "], []
    for number in range(1, 25):
        file = f"{number:06}.jpg"
        Image.new("RGB", (18, 22), (number, 2, 3)).save(root / IMAGES / file)
        signs = [-1, 1 if is_attractive(number) else -1, 1 if number % 2 else -1]
        rows.append(f"{file} " + " ".join(f"{sign:2}" for sign in signs))
        parts.append(f"{file} {0 if number <= 12 else 1 if number <= 18 else 2}")
    (root / ATTRIBUTES).write_text("\n".join(rows) + "\n")
    (root / PARTITION).write_text("\n".join(parts) + "\n")
    return root


def faces(root: Path, attribute: str = "Attractive") -> CelebA:
    return CelebA(root=str(root), image_size=16, num_classes=2, attribute=attribute)


@pytest.mark.parametrize("above", [False, True])
def test_the_published_layout(published: Path, above: bool) -> None:
    data = faces(published.parent if above else published)
    data.setup()
    assert data.classes == ["not Attractive", "Attractive"]
    test = data.test_dataloader().dataset
    numbers = [int(Path(test.images.path(i)).stem) for i in range(len(test))]
    assert numbers == list(range(19, 25))
    assert test.labels == [int(is_attractive(number)) for number in numbers]
    val = data.val_dataloader().dataset
    assert val.labels == [int(is_attractive(number)) for number in range(13, 19)]
    assert tuple(test[0][0].shape) == (3, 16, 16)


def test_another_attribute_is_another_label(published: Path) -> None:
    data = faces(published, "Young")
    data.setup()
    assert data.classes == ["not Young", "Young"]
    assert data.test_dataloader().dataset.labels == [1, 0, 1, 0, 1, 0]


def lines(name: str, change: Callable[[list[str]], list[str]]) -> Callable[[Path], None]:
    def spoil(root: Path) -> None:
        path = root / name
        path.write_text("\n".join(change(path.read_text().splitlines())))

    return spoil


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda root: (root / ATTRIBUTES).unlink(), r"is not CelebA: expected <root>/"),
        (lambda root: (root / PARTITION).unlink(), r"partition\.txt is missing: expected"),
        (lambda root: (root / ATTRIBUTES).write_text(""), r"has no attribute 'Attractive'"),
        (lambda root: (root / PARTITION).write_bytes(b"\xff\xfe"), r"cannot be read"),
        (lines(ATTRIBUTES, lambda x: [x[0], "Atractive Young Bald", *x[2:]]),
         r"has no attribute 'Attractive': type dataset\.attribute=.* such as Atractive"),
        (lines(ATTRIBUTES, lambda x: x[:-1]), r"is cut off or malformed"),
        (lines(ATTRIBUTES, lambda x: [*x[:-1], x[-1][:-2]]), r"is cut off or malformed"),
        (lines(ATTRIBUTES, lambda x: [*x[:-1], "000024.jpg 1 0 1"]), r"unexpected value"),
        (lines(PARTITION, lambda x: ["000001.jpg 3", *x[1:]]), r"unexpected value"),
        (lines(PARTITION, lambda x: ["000001.jpg", *x[1:]]), r"unexpected value"),
        (lines(PARTITION, lambda x: x[:-1]), r"different files \(000024\.jpg is in one only\)"),
        (lines(PARTITION, lambda x: [one.replace(" 2", " 1") for one in x]),
         r"the test images of .* do not both have and lack Attractive"),
        (lambda root: (root / IMAGES).unlink(), r"000001\.jpg is listed but missing"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_one_sentence(
    published: Path, tmp_path: Path, spoil: Callable[[Path], object], words: str
) -> None:
    root = tmp_path / "celeba"
    root.mkdir()
    for name in (ATTRIBUTES, PARTITION):
        shutil.copy(published / name, root)
    (root / IMAGES).symlink_to(published / IMAGES)
    faces(root).check()
    spoil(root)
    with pytest.raises(ThinetError, match=words) as caught:
        faces(root).check()
    assert "\n" not in str(caught.value)


def test_no_root() -> None:
    with pytest.raises(ThinetError, match=r"type dataset\.root=<folder> \(expected .*celeba"):
        CelebA(image_size=16).check()
