"""CelebA: 202,599 faces with 40 attributes, of which one makes two classes, in its own layout."""

from __future__ import annotations

import os
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from thinet.base.errors import ThinetError
from thinet.datasets.images import FileImages
from thinet.datasets.layout import data_root
from thinet.datasets.module import ImageData, Parts

IMAGES, ATTRIBUTES, PARTITION = (
    "img_align_celeba", "list_attr_celeba.txt", "list_eval_partition.txt",
)  # fmt: skip
LAYOUT = f"expected <root>/ with {IMAGES}/, {ATTRIBUTES} and {PARTITION}, or the same in celeba/"
AGAIN = "download CelebA's lists again"
PARTS = ("training", "validation", "test")  # 0, 1 and 2 in the list of parts


@dataclass(frozen=True)
class Face:
    """A file below ``img_align_celeba/``, whether it has the attribute, and its part (0, 1, 2)."""

    file: str
    label: int
    part: int


class CelebA(ImageData):
    """Faces with (class 1) and without (class 0) one attribute; the parts are the published ones.

    Args:
        root: The folder with the images' folder and both lists, or the one that holds it.
        attribute: One of the 40 names in the first lines of ``list_attr_celeba.txt``.
        common: See :class:`~thinet.datasets.module.ImageData`.
    """

    def __init__(
        self, *, root: str | None = None, attribute: str = "Attractive", **common: Any
    ) -> None:
        super().__init__(**common)
        self.root = root
        self.attribute = attribute

    def check(self) -> None:
        """Check that the lists and the files agree, and decode an image of each class.

        Raises:
            ThinetError: If they do not.
        """
        folder = self._folder()
        faces = read_faces(folder, self.attribute)
        check_faces(folder, faces, self.attribute)
        first = {face.label: face.file for face in reversed(faces)}
        self.decode(str(folder / IMAGES / first[label]) for label in (0, 1))
        self._set_classes([f"not {self.attribute}", self.attribute], str(folder))

    def load_parts(self) -> Parts:
        """Sort the listed files into training, validation and test images."""
        folder = self._folder()
        faces = read_faces(folder, self.attribute)

        def part(number: int) -> FileImages:
            mine = [face for face in faces if face.part == number]
            paths = [f"{folder}/{IMAGES}/{face.file}" for face in mine]
            return FileImages(paths, [face.label for face in mine], self.read)

        return Parts(part(0), val=part(1), test=part(2))

    def _folder(self) -> Path:
        root = data_root(self.root, LAYOUT)
        for folder in (root, root / "celeba"):
            if (folder / ATTRIBUTES).is_file():
                return folder
        raise ThinetError(f"{root} is not CelebA: {LAYOUT}.")


def read_faces(folder: Path, attribute: str) -> list[Face]:
    """Read both lists: ``<file> <-1 or 1> ...`` behind two lines of header, ``<file> <part>``.

    Raises:
        ThinetError: If one is missing or malformed, they list different files, or there is no such
            attribute.
    """
    lines = _lines(folder / ATTRIBUTES)
    count, names = [*lines, [], []][:2]
    rows = lines[2:]
    if attribute not in names:
        near = get_close_matches(attribute, names, n=3) or names[:3]
        raise ThinetError(
            f"{folder / ATTRIBUTES} has no attribute {attribute!r}: type dataset.attribute=<one of "
            f"its second line>, such as {', '.join(near) or 'Attractive'}."
        )
    if count != [str(len(rows))] or any(len(row) != len(names) + 1 for row in rows):
        raise ThinetError(f"{folder / ATTRIBUTES} is cut off or malformed: {AGAIN}.")
    column = names.index(attribute) + 1
    pairs = _lines(folder / PARTITION)
    try:
        parts = {file: ("0", "1", "2").index(number) for file, number in pairs}
        labels = {row[0]: ("-1", "1").index(row[column]) for row in rows}
    except ValueError as error:
        raise ThinetError(
            f"the lists in {folder} have an unexpected value ({error}): {AGAIN}."
        ) from error
    if parts.keys() != labels.keys():
        odd = min(parts.keys() ^ labels.keys())
        raise ThinetError(
            f"{ATTRIBUTES} and {PARTITION} in {folder} list different files ({odd} is in one "
            f"only): {AGAIN}."
        )
    return [Face(file, label, parts[file]) for file, label in labels.items()]


def check_faces(folder: Path, faces: list[Face], attribute: str) -> None:
    """Check that each part has both classes and every file is there (by listing the folder).

    Raises:
        ThinetError: At the first thing that does not fit.
    """
    for number, word in enumerate(PARTS):
        if {face.label for face in faces if face.part == number} != {0, 1}:
            raise ThinetError(
                f"the {word} images of {folder} do not both have and lack {attribute}: {AGAIN}, "
                "or type another dataset.attribute."
            )
    try:
        present = set(os.listdir(folder / IMAGES))
    except OSError:
        present = set()
    for face in faces:
        if face.file not in present:
            raise ThinetError(
                f"{folder / IMAGES / face.file} is listed but missing: "
                f"unpack {IMAGES}.zip beside the lists."
            )


def _lines(path: Path) -> list[list[str]]:
    """The words of each line that is not empty."""
    try:
        return [line.split() for line in path.read_text().split("\n") if line.strip()]
    except FileNotFoundError as error:
        raise ThinetError(f"{path} is missing: {LAYOUT}.") from error
    except (OSError, ValueError) as error:
        raise ThinetError(f"{path} cannot be read ({error}): {AGAIN}.") from error
