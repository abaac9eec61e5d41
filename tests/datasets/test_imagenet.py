from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from PIL import Image

from thinet.base.errors import ThinetError
from thinet.datasets.imagenet import ImageNet


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1000 wnids with two training images and one validation image each.

    The class folders are links to one folder per part, which is quicker than 3000 files.
    """
    root = tmp_path_factory.mktemp("imagenet")
    images = tmp_path_factory.mktemp("images")
    for name in ("train/n01440764_26", "train/n01440764_402", "val/ILSVRC2012_val_00000293"):
        path = images / f"{name}.JPEG"
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (12, 9), (9, 99, 199)).save(path)
    for part in ("train", "val"):
        (root / part).mkdir()
        for number in range(1000):
            (root / part / f"n{1440764 + 13 * number:08}").symlink_to(images / part)
    return root


def imagenet(root: Path) -> ImageNet:
    return ImageNet(root=str(root), image_size=16, num_classes=1000, val_fraction=0.008)


def test_the_published_layout(published: Path) -> None:
    data = imagenet(published)
    data.setup()
    assert data.num_classes == 1000
    assert data.classes == sorted(path.name for path in (published / "train").iterdir())
    test, val = data.test_dataloader().dataset, data.val_dataloader().dataset
    assert test.labels == list(range(1000))
    assert val.labels == list(range(1000))
    assert data.calibration().labels == list(range(1000))
    image, label = test[999]
    assert (tuple(image.shape), label) == ((3, 16, 16), 999)


def test_a_missing_class_is_noticed(published: Path) -> None:
    gone = sorted((published / "train").iterdir())[500]
    aside = published.parent / gone.name
    shutil.move(gone, aside)
    try:
        with pytest.raises(ThinetError, match=r"999 class folders instead of 1000.*dataset=folder"):
            imagenet(published).check()
    finally:
        shutil.move(aside, gone)


def test_a_missing_validation_class_is_noticed(published: Path) -> None:
    gone = sorted((published / "val").iterdir())[3]
    aside = published.parent / gone.name
    shutil.move(gone, aside)
    try:
        with pytest.raises(ThinetError, match=rf"missing in .*val \({gone.name}\)"):
            imagenet(published).check()
    finally:
        shutil.move(aside, gone)


def test_a_flat_validation_folder_says_how_to_sort_it(tmp_path: Path) -> None:
    (tmp_path / "train" / "n01440764").mkdir(parents=True)
    (tmp_path / "val").mkdir()
    (tmp_path / "val" / "ILSVRC2012_val_00000001.JPEG").write_bytes(b"")
    with pytest.raises(ThinetError, match=r"flat folder of images: .*valprep\.sh"):
        imagenet(tmp_path).check()


@pytest.mark.parametrize("missing", ["train", "val"])
def test_a_missing_part_names_the_layout(tmp_path: Path, missing: str) -> None:
    for name in {"train", "val"} - {missing}:
        (tmp_path / name).mkdir()
    with pytest.raises(ThinetError, match=rf"no {missing} folder: expected .*1000 wnids"):
        imagenet(tmp_path).check()
