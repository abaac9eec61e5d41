from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from thinet.base.errors import ThinetError
from thinet.datasets.indoor67 import Indoor67

KINDS = {  # what files called .jpg are in the published archive, too
    "JPEG": "RGB", "GIF": "P", "PNG": "P", "BMP": "RGB", "grey JPEG": "L", "grey PNG": "LA",
}  # fmt: skip


def encoded(kind: str, color: tuple[int, int, int]) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (18, 12), color).convert(KINDS[kind]).save(buffer, kind.split()[-1])
    return buffer.getvalue()


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """67 categories with three training images, one test image and one that is not listed."""
    root = tmp_path_factory.mktemp("indoor") / "indoor67"
    train, test = [], []
    for label in range(67):
        name = f"room_{label:02}"
        (root / "Images" / name).mkdir(parents=True)
        for number in range(5):
            kind = list(KINDS)[(label + number) % len(KINDS)]
            entry = f"{name}/{name}_{number}_gif.jpg"
            (root / "Images" / entry).write_bytes(encoded(kind, (label, 100 + number, 200)))
            if number:
                (test if number == 4 else train).append(entry)
    # as published: not sorted; with Windows line ends and blank lines at the end
    (root / "TrainImages.txt").write_bytes("\r\n".join([*reversed(train), "", ""]).encode())
    (root / "TestImages.txt").write_text("\n".join(test) + "\n\n")
    return root


def indoor(root: Path, **options: object) -> Indoor67:
    return Indoor67(root=str(root), image_size=8, num_classes=67, val_fraction=0.3, **options)


def test_the_published_layout(archive: Path) -> None:
    data = indoor(archive, mean=(0, 0, 0), std=(1, 1, 1), flip=False, crop="none")
    data.setup()
    assert data.classes == [f"room_{label:02}" for label in range(67)]
    test = data.test_dataloader().dataset
    assert test.labels == list(range(67))
    names = [Path(test.images.path(i)).name for i in range(67)]
    assert names == [f"room_{label:02}_4_gif.jpg" for label in range(67)]
    train, val = data.train_dataloader().dataset, data.val_dataloader().dataset
    assert (len(train), len(val)) == (134, 67)
    used = {train.images.path(i) for i in range(len(train.images))}
    listed = (archive / "TrainImages.txt").read_text().split()
    assert used == {f"{archive}/Images/{entry}" for entry in listed}
    assert not any("_0_gif" in path for path in used), "an image that is not listed"


def test_whatever_a_file_is_comes_out_as_rgb(archive: Path) -> None:
    data = indoor(archive, mean=(0, 0, 0), std=(1, 1, 1))
    data.setup()
    for label, (image, _) in enumerate(data.test_dataloader().dataset):
        kind = list(KINDS)[(label + 4) % len(KINDS)]
        assert image.shape == (3, 8, 8)
        levels = 255 * image.mean(dim=(1, 2))
        grey = 0.299 * label + 0.587 * 104 + 0.114 * 200  # ITU-R 601
        wanted = [grey] * 3 if kind.startswith("grey") else [label, 104, 200]
        torch.testing.assert_close(levels, torch.tensor(wanted).float(), rtol=0, atol=4)


def lines(name: str, change: Callable[[list[str]], list[str]]) -> Callable[[Path], None]:
    def spoil(root: Path) -> None:
        path = root / name
        path.write_text("\n".join(change(path.read_text().split())))

    return spoil


def without(room: str) -> Callable[[list[str]], list[str]]:
    return lambda entries: [entry for entry in entries if not entry.startswith(room)]


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda root: (root / "TrainImages.txt").unlink(), r"TrainImages\.txt is missing: expect"),
        (lambda root: (root / "TestImages.txt").unlink(), r"TestImages\.txt is missing: expected"),
        (lambda root: (root / "Images").unlink(), r"has no Images folder: expected"),
        (lines("TrainImages.txt", without("room_66")), r"has 66 categories instead of 67: "),
        (lines("TrainImages.txt", lambda x: [*x, "attic/a.jpg"]), r"has 68 categories instead of"),
        (lines("TrainImages.txt", lambda x: []), r"has 0 categories instead of 67"),
        (lines("TestImages.txt", without("room_03")), r"different categories \(room_03 is in one"),
        (lines("TestImages.txt", lambda x: ["nonsense", *x]), r"the line 'nonsense' where"),
        (lines("TestImages.txt", lambda x: ["../room_00/a.jpg", *x]), r"the line '\.\./room_00/a"),
        (lines("TestImages.txt", lambda x: ["room_00/gone.jpg", *x]),
         r"Images/room_00/gone\.jpg is listed but missing: unpack indoorCVPR_09\.tar again"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_one_sentence(
    archive: Path, tmp_path: Path, spoil: Callable[[Path], object], words: str
) -> None:
    root = tmp_path / "indoor67"
    root.mkdir()
    for name in ("TrainImages.txt", "TestImages.txt"):
        shutil.copy(archive / name, root)
    (root / "Images").symlink_to(archive / "Images")
    indoor(root).check()
    spoil(root)
    with pytest.raises(ThinetError, match=words) as caught:
        indoor(root).check()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("wrong", ["..", "Images"])
def test_a_root_one_level_off_says_the_right_one(archive: Path, wrong: str) -> None:
    root = archive.parent if wrong == ".." else archive / wrong
    with pytest.raises(ThinetError) as caught:
        indoor(root).check()
    assert str(caught.value) == f"{root} has no Images folder: type dataset.root={archive}."


def test_a_broken_image_is_named(archive: Path) -> None:
    path = archive / "Images/room_05/room_05_3_gif.jpg"
    content = path.read_bytes()
    path.write_bytes(b"x")
    try:
        with pytest.raises(ThinetError, match=rf"1 of \d+ images cannot be read, 0 may be: {path}"):
            indoor(archive).setup()
    finally:
        path.write_bytes(content)


def test_no_root() -> None:
    with pytest.raises(ThinetError, match=r"type dataset\.root=<folder> \(expected .*TrainImages"):
        Indoor67(image_size=16).check()
