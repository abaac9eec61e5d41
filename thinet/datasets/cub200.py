"""CUB-200-2011: 200 bird species, 5,994 training and 5,794 test images, in its own layout."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thinet.base.errors import ThinetError
from thinet.datasets.images import FileImages
from thinet.datasets.layout import data_root
from thinet.datasets.module import ImageData, Parts

NAME = "CUB_200_2011"
LISTS = ("images.txt", "image_class_labels.txt", "train_test_split.txt")
LAYOUT = f"expected <root>/{NAME}/ with {', '.join(LISTS)} and images/, as in {NAME}.tgz"
CLASSES = 200


@dataclass(frozen=True)
class Entry:
    """One line of each list: a file below ``images/``, its class (1 to 200), its part."""

    path: str
    label: int
    is_train: bool


class CUB200(ImageData):
    """CUB-200-2011, read from the unpacked archive; bounding boxes are not used.

    Args:
        root: The unpacked ``CUB_200_2011`` folder or the one that holds it.
        common: See :class:`~thinet.datasets.module.ImageData`.
    """

    def __init__(self, *, root: str | None = None, **common: Any) -> None:
        super().__init__(**common)
        self.root = root

    def check(self) -> None:
        """Check that the three lists and the files agree, and decode an image of every class.

        Raises:
            ThinetError: If they do not.
        """
        folder = self._folder()
        entries = read_entries(folder)
        check_entries(folder, entries)
        first: dict[int, str] = {}
        for entry in entries:
            first.setdefault(entry.label, entry.path)
        self.decode(str(folder / "images" / path) for path in first.values())
        names = {entry.label: entry.path.partition("/")[0] for entry in entries}
        self._set_classes([names[label] for label in sorted(names)], str(folder))

    def load_parts(self) -> Parts:
        """Sort the listed files into training and test images."""
        folder = self._folder()
        entries = read_entries(folder)

        def part(train: bool) -> FileImages:
            mine = [entry for entry in entries if entry.is_train == train]
            paths = [f"{folder}/images/{entry.path}" for entry in mine]
            return FileImages(paths, [entry.label - 1 for entry in mine], self.read)

        return Parts(part(True), test=part(False))

    def _folder(self) -> Path:
        root = data_root(self.root, LAYOUT)
        for folder in (root, root / NAME):
            if (folder / LISTS[0]).is_file():
                return folder
        raise ThinetError(f"{root} is not CUB-200-2011: {LAYOUT}.")


def read_entries(folder: Path) -> list[Entry]:
    """Read the three lists, each with lines ``<image id> <value>``.

    Raises:
        ThinetError: If one is missing or malformed, or their image ids differ.
    """
    paths, labels, parts = (_read_list(folder / name) for name in LISTS)
    for name, values in zip(LISTS[1:], (labels, parts), strict=True):
        if values.keys() != paths.keys():
            odd = min(values.keys() ^ paths.keys())
            raise ThinetError(
                f"{folder / name} and {LISTS[0]} list different images (id {odd} is in one only): "
                f"unpack {NAME}.tgz again."
            )
    try:
        return [Entry(paths[i], int(labels[i]), {"0": False, "1": True}[parts[i]]) for i in paths]
    except (KeyError, ValueError) as error:
        raise ThinetError(
            f"{folder} has lists with an unexpected value ({error}): unpack {NAME}.tgz again."
        ) from error


def check_entries(folder: Path, entries: list[Entry]) -> None:
    """Check labels, parts and the presence of every file (by listing folders, not opening files).

    Raises:
        ThinetError: At the first thing that does not fit.
    """
    labels = {entry.label for entry in entries}
    if labels != set(range(1, CLASSES + 1)):
        raise ThinetError(
            f"{folder / LISTS[1]} has {len(labels)} classes from {min(labels, default=0)} to "
            f"{max(labels, default=0)} instead of 1 to {CLASSES}: unpack {NAME}.tgz again."
        )
    for train, word in ((True, "training"), (False, "test")):
        if {entry.label for entry in entries if entry.is_train == train} != labels:
            raise ThinetError(
                f"{folder / LISTS[2]} leaves a class without {word} images: "
                f"unpack {NAME}.tgz again."
            )
    present: dict[str, set[str]] = {}
    for entry in entries:
        name, _, file = entry.path.partition("/")
        if name not in present:
            present[name] = _names(folder / "images" / name)
        if file not in present[name]:
            raise ThinetError(
                f"{folder / 'images' / entry.path} is listed but missing: unpack {NAME}.tgz again."
            )


def _names(folder: Path) -> set[str]:
    try:
        return set(os.listdir(folder))
    except OSError:
        return set()


def _read_list(path: Path) -> dict[int, str]:
    try:
        lines = path.read_text().split("\n")
        pairs = [line.split(maxsplit=1) for line in lines if line.strip()]
        return {int(key): value.strip() for key, value in pairs}
    except FileNotFoundError as error:
        raise ThinetError(f"{path} is missing: {LAYOUT}.") from error
    except (OSError, ValueError) as error:
        raise ThinetError(
            f"{path} cannot be read ({error}): each line must be '<image id> <value>', so unpack "
            f"{NAME}.tgz again."
        ) from error
