from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch

from thinet.base.errors import ThinetError
from thinet.datasets.folder import Folder

Tree = Callable[[Mapping[str, int]], Path]
GOOD = {"train/cat": 6, "train/dog": 6, "test/cat": 2, "test/dog": 3}


def folder(root: Path | str | None, **options: object) -> Folder:
    return Folder(**{"root": None if root is None else str(root), "image_size": 8, **options})


def labels(loader: object) -> list[int]:
    return torch.cat([batch for _, batch in loader]).tolist()


@pytest.mark.parametrize("name", ["test", "val"])
def test_a_single_other_part_is_the_test_set(tree: Tree, name: str) -> None:
    root = tree({key.replace("test", name): count for key, count in GOOD.items()})
    data = folder(root, val_fraction=1 / 3)
    assert labels(data.test_dataloader()) == [0, 0, 1, 1, 1]
    assert sorted(labels(data.val_dataloader())) == [0, 0, 1, 1]
    assert sorted(labels(data.train_dataloader())) == [0] * 4 + [1] * 4
    assert (data.classes, data.num_classes) == (["cat", "dog"], 2)


def test_with_val_and_test_nothing_is_split_from_train(tree: Tree) -> None:
    data = folder(tree({**GOOD, "val/cat": 1, "val/dog": 4}))
    assert labels(data.val_dataloader()) == [0, 1, 1, 1, 1]
    assert labels(data.test_dataloader()) == [0, 0, 1, 1, 1]
    assert len(labels(data.train_dataloader())) == 12


def test_nested_images_upper_case_and_hidden_files(tree: Tree) -> None:
    root = tree({**GOOD, "train/cat/images": 1, "train/.cache": 1})
    (root / "train/cat/0000.jpg").rename(root / "train/cat/A.JPEG")
    (root / "train/cat/.hidden.jpg").write_text("")
    (root / "train/cat/boxes.txt").write_text("")
    data = folder(root)
    data.setup()
    assert len(labels(data.train_dataloader())) + len(labels(data.val_dataloader())) == 13


def empty(root: Path) -> None:
    for file in (root / "train/dog").iterdir():
        file.unlink()


def flatten(root: Path) -> None:
    for file in list((root / "test").glob("*/*")):
        file.rename(root / "test" / f"{file.parent.name}{file.name}")
    for name in ("cat", "dog"):
        (root / "test" / name).rmdir()


def corrupt(root: Path) -> None:
    file = root / "test/dog/0001.jpg"
    file.write_bytes(file.read_bytes()[:200])


def no_classes(root: Path) -> None:
    shutil.rmtree(root / "train")
    (root / "train").mkdir()


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda root: shutil.rmtree(root / "train"), r"no train folder: expected <root>/train/"),
        (lambda root: shutil.rmtree(root / "test"), r"neither a test nor a val folder: expected"),
        (lambda root: shutil.rmtree(root / "test/dog"), r"missing in .*test \(dog\)"),
        (lambda root: shutil.rmtree(root / "train/dog"), r"missing in .*train \(dog\)"),
        (lambda root: shutil.rmtree(root), r"not an existing folder: type dataset\.root="),
        (empty, r"class folder .*train/dog has no images"),
        (flatten, r"5 image files \(cat0000\.jpg \.\.\.\) that are in no class folder"),
        (no_classes, r"train has no class folders: expected <root>/train/<class>/<image>"),
        (corrupt, r"1 of \d+ images cannot be read, 0 may be: .*test/dog/0001\.jpg"),
    ],
)
def test_a_wrong_layout_is_one_sentence(
    tree: Tree, spoil: Callable[[Path], object], words: str
) -> None:
    root = tree(GOOD)
    folder(root).check()
    spoil(root)
    with pytest.raises(ThinetError, match=words) as caught:
        folder(root).setup()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("root", [None, ""])
def test_no_root(root: str | None) -> None:
    with pytest.raises(ThinetError, match=r"type dataset\.root=<folder>"):
        folder(root).check()


def test_a_folder_too_high_is_corrected(tree: Tree) -> None:
    root = tree(GOOD)
    with pytest.raises(ThinetError, match=rf"type dataset\.root={root}\."):
        folder(root.parent).check()


def test_another_number_of_classes_is_refused(tree: Tree) -> None:
    with pytest.raises(ThinetError, match=r"dataset\.num_classes=3 .*has 2 classes"):
        folder(tree(GOOD), num_classes=3).check()


def test_single_images_leave_none_to_validate(tree: Tree) -> None:
    root = tree({"train/a": 1, "train/b": 1, "test/a": 1, "test/b": 1})
    with pytest.raises(ThinetError, match="none is left to validate"):
        folder(root).setup()
