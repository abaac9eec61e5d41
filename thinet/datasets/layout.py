"""Reading trees of class folders: ``<part>/<class>/<image>``."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from unicodedata import category

from thinet.base.errors import ThinetError
from thinet.datasets.images import FileImages
from thinet.datasets.reading import Reader, read_image

EXTENSIONS = frozenset(
    {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff", ".webp"}
)
EXPECTED = "expected <root>/train/<class>/<image> and <root>/test|val/<class>/<image>"
_TURNS = "\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
VERIFIED = 200
"""Files of a part that are decoded before work starts."""


def read_lines(path: Path, layout: str) -> list[str]:
    """The lines of a published list without the spaces around them; blank ones are left out.

    Raises:
        ThinetError: If it is missing or cannot be read; ``layout`` says what was expected.
    """
    try:
        text = os.fsdecode(path.read_bytes())
    except FileNotFoundError as error:
        raise ThinetError(f"{path} is missing: {layout}.") from error
    except OSError as error:
        raise ThinetError(f"{path} cannot be read ({error}): download it again.") from error
    return [line.strip() for line in text.split("\n") if line.strip()]


def data_root(root: str | Path | None, layout: str = EXPECTED) -> Path:
    """The folder ``dataset.root`` names.

    Raises:
        ThinetError: If none is given or it is not an existing folder.
    """
    if root is None or not str(root).strip():
        raise ThinetError(f"no data set folder is given: type dataset.root=<folder> ({layout}).")
    path = Path(root).expanduser()
    if not path.is_dir():
        raise ThinetError(
            f"dataset.root={root} is not an existing folder: type dataset.root=<folder> ({layout})."
        )
    return path


def is_image(name: str) -> bool:
    """Whether a file name ends like an image and is not hidden."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in EXTENSIONS


def walk_images(folder: str | Path) -> Iterator[str]:
    """Image files in a folder and below, lazily and in no particular order.

    Raises:
        ThinetError: If a folder cannot be listed.
    """
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if is_image(entry.name) and entry.is_file():
                    yield entry.path
                elif entry.is_dir():
                    yield from walk_images(entry.path)
    except OSError as error:
        raise ThinetError(
            f"{folder} cannot be read ({error.strerror}): correct its permissions (chmod)."
        ) from error


def class_folders(part: Path) -> list[str]:
    """Names of the class folders of one part, sorted: their order is the class index.

    Raises:
        ThinetError: If there is none, or the images lie beside instead of in class folders.
    """
    try:
        with os.scandir(part) as entries:
            visible = [entry for entry in entries if not entry.name.startswith(".")]
            classes = sorted(_plain_name(part, entry.name) for entry in visible if entry.is_dir())
            loose = [entry.name for entry in visible if is_image(entry.name) and entry.is_file()]
    except OSError as error:
        raise ThinetError(f"{part} cannot be read ({error.strerror}): {EXPECTED}.") from error
    if loose:
        raise ThinetError(
            f"{part} holds {len(loose)} image files ({min(loose)} ...) that are in no class "
            f"folder: sort them into one folder per class ({EXPECTED})."
        )
    if not classes:
        raise ThinetError(f"{part} has no class folders: {EXPECTED}.")
    return classes


def _plain_name(part: Path, name: str) -> str:
    """Refuse a name that would garble a terminal or a report, or cannot be written as UTF-8."""
    # Controls, parts of characters, line separators; and marks that turn the reading direction.
    odd = [c for c in name if category(c) in ("Cc", "Cs", "Zl", "Zp") or c in _TURNS]
    if odd:
        shown = ascii(name)[1:-1][:80]
        raise ThinetError(
            f"the class folder {shown} of {part} has a character in its name that cannot be "
            f"printed ({odd[0]!a}): rename the folder."
        )
    return name


def check_part(part: Path) -> tuple[list[str], list[str]]:
    """Check that every class of a part has images.

    Returns:
        The class names, and some files of each class, to be decoded before work starts.

    Raises:
        ThinetError: If the layout is wrong or a class is empty.
    """
    classes = class_folders(part)
    each = max(VERIFIED // len(classes), 1)
    some: list[str] = []
    for name in classes:
        first = list(islice(walk_images(part / name), each))
        if not first:
            raise ThinetError(
                f"class folder {part / name} has no images ({', '.join(sorted(EXTENSIONS))}): "
                "add some or delete the folder."
            )
        some += first
    return classes, some[:: -(-len(some) // VERIFIED)]


def check_same_classes(train: Path, other: Path, classes: list[str], others: list[str]) -> None:
    """Compare the classes of two parts.

    Raises:
        ThinetError: Naming some of the classes only one of them has.
    """
    for have, lack, names in (
        (train, other, set(classes) - set(others)),
        (other, train, set(others) - set(classes)),
    ):
        if names:
            shown = ", ".join(sorted(names)[:3]) + (" ..." if len(names) > 3 else "")
            raise ThinetError(
                f"{len(names)} class folders of {have} are missing in {lack} ({shown}): give both "
                "the same class folders."
            )


def list_part(part: Path, classes: list[str], read: Reader = read_image) -> FileImages:
    """All images of a part, sorted by class and path.

    Args:
        part: Folder of class folders.
        classes: Names of the class folders to read, in the order of the class index.
        read: Decodes a file.

    Raises:
        ThinetError: If a folder cannot be listed.
    """
    paths: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        files = sorted(walk_images(part / name))
        paths += files
        labels += [label] * len(files)
    return FileImages(paths, labels, read)


def nested_root(root: Path) -> Path | None:
    """The only sub-folder of ``root`` if that one has a ``train`` folder."""
    with suppress(OSError):
        folders = [path for path in root.iterdir() if path.is_dir() and path.name[0] != "."]
        if len(folders) == 1 and (folders[0] / "train").is_dir():
            return folders[0]
    return None
