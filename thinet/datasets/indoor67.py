"""MIT Indoor-67: 67 kinds of rooms, 5,360 training and 1,340 test images, in its own layout."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from thinet.base.errors import ThinetError
from thinet.datasets.images import FileImages
from thinet.datasets.layout import data_root, read_lines
from thinet.datasets.module import ImageData, Parts

ARCHIVE = "indoorCVPR_09.tar"
TRAIN, TEST = "TrainImages.txt", "TestImages.txt"
LAYOUT = f"expected <root>/Images/<category>/, as in {ARCHIVE}, with {TRAIN} and {TEST} beside it"
CLASSES = 67


class Indoor67(ImageData):
    """MIT Indoor-67 (A. Quattoni, A. Torralba, 2009) with the published training and test lists.

    They list about 80 and 20 images of every category. ``Images`` holds 15,620 files; those that
    are in neither list are not used. Some files called ``.jpg`` are GIFs, PNGs or BMPs, some are
    grey or have a palette: what a file is depends on its content, and all become RGB.

    Args:
        root: The folder that holds ``Images`` and both lists.
        common: See :class:`~thinet.datasets.module.ImageData`.
    """

    def __init__(self, *, root: str | None = None, **common: Any) -> None:
        super().__init__(**common)
        self.root = root

    def check(self) -> None:
        """Check that both lists and the files agree, and decode an image of every class.

        Raises:
            ThinetError: If they do not.
        """
        folder = self._folder()
        train, test = (read_list(folder / name) for name in (TRAIN, TEST))
        classes = check_lists(folder, train, test)
        first: dict[str, str] = {}
        for entry in train:
            first.setdefault(category(entry), entry)
        self.decode(str(folder / "Images" / entry) for entry in first.values())
        self._set_classes(classes, str(folder))

    def load_parts(self) -> Parts:
        """The listed files, in the order of the lists."""
        folder = self._folder()
        label = {name: index for index, name in enumerate(self.classes)}

        def part(name: str) -> FileImages:
            entries = read_list(folder / name)
            paths = [f"{folder}/Images/{entry}" for entry in entries]
            return FileImages(paths, [label[category(entry)] for entry in entries], self.read)

        return Parts(part(TRAIN), test=part(TEST))

    def _folder(self) -> Path:
        root = data_root(self.root, LAYOUT)
        if (root / "Images").is_dir():
            return root
        for folder in (root.parent, *sorted(path for path in root.iterdir() if path.is_dir())):
            if (folder / "Images").is_dir() and (folder / TRAIN).is_file():
                raise ThinetError(f"{root} has no Images folder: type dataset.root={folder}.")
        raise ThinetError(f"{root} has no Images folder: {LAYOUT}.")


def category(entry: str) -> str:
    """The class of a line ``<category>/<file>``."""
    return entry.partition("/")[0]


def read_list(path: Path) -> list[str]:
    """Read a list, each line ``<category>/<file>``; blank lines and Windows line ends do no harm.

    Raises:
        ThinetError: If it is missing, or a line is something else.
    """
    entries = read_lines(path, LAYOUT)
    for entry in entries:
        name, _, file = entry.partition("/")
        if not (name and file) or ".." in (name, file) or "/" in file:
            raise ThinetError(
                f"{path} has the line '{entry[:60]}' where '<category>/<file>' was expected: "
                "download it again."
            )
    return entries


def check_lists(folder: Path, train: list[str], test: list[str]) -> list[str]:
    """Check classes and the presence of every file (by listing folders, not opening files).

    Returns:
        The categories, sorted: their order is the class index.

    Raises:
        ThinetError: At the first thing that does not fit.
    """
    classes = {category(entry) for entry in train}
    if len(classes) != CLASSES:
        raise ThinetError(
            f"{folder / TRAIN} has {len(classes)} categories instead of {CLASSES}: download it "
            "again, or use dataset=folder for another set of classes."
        )
    odd = classes ^ {category(entry) for entry in test}
    if odd:
        raise ThinetError(
            f"{TRAIN} and {TEST} of {folder} have different categories ({min(odd)} is in one "
            "only): download them again."
        )
    present = {name: _names(folder / "Images" / name) for name in classes}
    for entry in (*train, *test):
        name, _, file = entry.partition("/")
        if file not in present[name]:
            raise ThinetError(
                f"{folder / 'Images' / entry} is listed but missing: unpack {ARCHIVE} again."
            )
    return sorted(classes)


def _names(folder: Path) -> set[str]:
    try:
        return set(os.listdir(folder))
    except OSError:
        return set()
