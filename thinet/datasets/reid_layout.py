"""Where persons of Market-1501 and MSMT17 are found: file names and lists, nothing decoded."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from thinet.base.errors import ThinetError
from thinet.datasets.layout import data_root, is_image, read_lines

LAYOUTS = ("auto", "market1501", "msmt17")
FOLDERS = ("bounding_box_train", "query", "bounding_box_test")
LISTS = ("list_train.txt", "list_val.txt", "list_query.txt", "list_gallery.txt")
PARTS = (("train", "test"), ("mask_train_v2", "mask_test_v2"))
"""Image folders of MSMT17, as first published and with blurred faces."""
LAYOUT = (
    f"expected <root>/ with {', '.join(FOLDERS)} as in Market-1501, or with train, test, "
    f"{', '.join(LISTS)} as in MSMT17"
)
JUNK, DISTRACTOR = -1, 0
"""Numbers of Market-1501 in place of a person's: a bad box, and a box of somebody unknown."""
_MARKET = re.compile(r"(-1|\d{1,9})_c(\d{1,9})s\d+_")  # 0002_c1s1_000451_03.jpg
_MSMT = re.compile(
    r"(\d{1,9})_(?:\d+_|c)(\d{1,9})_"
)  # 0000_000_01_0303morning_0015_0.jpg, 0000_c1_0000.jpg

_NUMBER = re.compile(r"\d{1,9}")


@dataclass(frozen=True)
class Shot:
    """An image of a person.

    Attributes:
        path: Its file.
        person: Number of the person; negative for a distractor, who is looked for by nobody.
        camera: Number of the camera.
    """

    path: str
    person: int
    camera: int


@dataclass(frozen=True)
class Persons:
    """Parts of a data set; ``val`` has persons of ``train`` or, if it is to be split, is empty.

    Numbers of persons in ``query`` and ``gallery`` agree with each other. Those in ``train`` may
    be given anew there, to other persons.
    """

    train: list[Shot]
    val: list[Shot]
    query: list[Shot]
    gallery: list[Shot]


def read_persons(root: str | None, layout: str = "auto") -> Persons:
    """Find the images of each part, and check that they make sense.

    Args:
        root: Folder that holds the parts, or whose only fitting sub-folder does.
        layout: One of :data:`LAYOUTS`.

    Raises:
        ThinetError: If something is missing, a name is none of these data sets' or a query cannot
            be answered.
    """
    if layout not in LAYOUTS:
        raise ThinetError(
            f"dataset.layout={layout} is unknown: choose dataset.layout={'|'.join(LAYOUTS)}."
        )
    folder = _find_folder(data_root(root, LAYOUT), layout)
    if layout != "market1501" and _has_lists(folder):
        persons = _read_lists(folder)
    else:
        word = _kind_of_names(folder) if layout == "auto" else layout
        persons = _read_folders(folder, word)
    _check_queries(folder, persons)
    return persons


def _find_folder(root: Path, layout: str) -> Path:
    fits = {"market1501": _has_folders, "msmt17": lambda x: _has_lists(x) or _has_folders(x)}
    fit: Callable[[Path], bool] = fits.get(layout, fits["msmt17"])
    if fit(root):
        return root
    found = sorted(path for path in root.iterdir() if path.is_dir() and fit(path))
    if len(found) > 1:
        raise ThinetError(
            f"dataset.root={root} holds several data sets ({', '.join(x.name for x in found)}): "
            f"type dataset.root={found[0]} or another one."
        )
    if not found:
        raise ThinetError(f"dataset.root={root} holds no persons: {LAYOUT}.")
    return found[0]


def _has_folders(folder: Path) -> bool:
    return (folder / FOLDERS[0]).is_dir()


def _has_lists(folder: Path) -> bool:
    """One list is enough: what else is missing is said later, by name."""
    return any((folder / name).is_file() for name in LISTS)


def _kind_of_names(folder: Path) -> str:
    """MSMT17 has copies in Market-1501's folders, but there 0000 is a person like others."""
    names = _names(folder / FOLDERS[0])
    return "msmt17" if names and not any(map(_MARKET.match, names)) else "market1501"


def _read_folders(folder: Path, layout: str) -> Persons:
    train, query, gallery = (_read_folder(folder / name, layout) for name in FOLDERS)
    if layout == "market1501":
        _check_market(folder, train, query, gallery)
        gallery = [replace(x, person=-1) if x.person == DISTRACTOR else x for x in gallery]
    return Persons(train, [], query, gallery)


def _check_market(folder: Path, train: list[Shot], query: list[Shot], gallery: list[Shot]) -> None:
    """Nobody is trained on or looked for, and nobody who was trained on is looked for.

    Raises:
        ThinetError: Otherwise.
    """
    odd = next((shot.path for shot in (*train, *query) if shot.person == DISTRACTOR), None)
    if odd:
        raise ThinetError(
            f"{odd} is of nobody (0000), whose images belong into {FOLDERS[2]} alone: unpack the "
            "published archive again."
        )
    both = {shot.person for shot in train} & {shot.person for shot in (*query, *gallery)}
    if both:
        raise ThinetError(
            f"{folder} has person {min(both):04} among training and test images, which must be of "
            "different persons: unpack the published archive again."
        )


def _read_folder(folder: Path, layout: str) -> list[Shot]:
    """Images of a folder sorted by name, without junk."""
    if not folder.is_dir():
        raise ThinetError(f"{folder} is missing: {LAYOUT}.")
    pattern = _MARKET if layout == "market1501" else _MSMT
    shots = [_shot(f"{folder}/{name}", name, pattern) for name in _names(folder)]
    kept = [shot for shot in shots if shot.person != JUNK]
    if not kept:
        raise ThinetError(f"{folder} has no images of persons: {LAYOUT}.")
    return kept


def _shot(path: str, name: str, pattern: re.Pattern[str], person: int | None = None) -> Shot:
    match = pattern.match(name)
    if match is None:
        example = (
            "0002_c1s1_000451_03.jpg"
            if pattern is _MARKET
            else "0000_000_01_0303morning_0015_0.jpg"
        )
        raise ThinetError(
            f"{path} does not tell its person and camera by a name like {example}: rename or "
            f"remove it, or choose dataset.layout={'|'.join(LAYOUTS[1:])}."
        )
    return Shot(path, int(match[1]) if person is None else person, int(match[2]))


def _names(folder: Path) -> list[str]:
    try:
        return sorted(name for name in os.listdir(folder) if is_image(name))
    except OSError:
        return []


def _read_lists(folder: Path) -> Persons:
    for parts in PARTS:
        if all((folder / name).is_dir() for name in parts):
            break
    else:
        raise ThinetError(
            f"{folder} has neither {' and '.join(PARTS[0])} nor {' and '.join(PARTS[1])}: {LAYOUT}."
        )
    train, val, query, gallery = (
        _read_list(folder / name, folder / parts[number > 1]) for number, name in enumerate(LISTS)
    )
    unknown = {shot.person for shot in val} - {shot.person for shot in train}
    if unknown:
        raise ThinetError(
            f"{folder / LISTS[1]} has person {min(unknown)}, who is not in {LISTS[0]}: unpack the "
            "published archive again."
        )
    return Persons(train, val, query, gallery)


def _read_list(path: Path, images: Path) -> list[Shot]:
    """Lines ``<folder>/<file> <person>``, in their order.

    Raises:
        ThinetError: If it is missing or empty, a line is something else or names no file.
    """
    shots: list[Shot] = []
    present: dict[str, set[str]] = {}
    for line in read_lines(path, LAYOUT):
        entry, _, person = line.rpartition(" ")
        place, _, name = entry.rpartition("/")
        if not (name and _NUMBER.fullmatch(person)) or ".." in place.split("/") or entry[0] == "/":
            raise ThinetError(
                f"{path} has the line '{line[:60]}' where '<folder>/<file> <person>' was expected: "
                "download it again."
            )
        if place not in present:
            present[place] = set(_names(images / place))
        if name not in present[place]:
            raise ThinetError(
                f"{images / place / name} is in {path.name} but missing: unpack the published "
                "archive again."
            )
        shots.append(_shot(f"{images / place}/{name}", name, _MSMT, int(person)))
    if not shots:
        raise ThinetError(f"{path} is empty: download it again.")
    return shots


def _check_queries(folder: Path, persons: Persons) -> None:
    """At least one query must be answerable; the others do not count, as is usual.

    Raises:
        ThinetError: If none is.
    """
    seen = _cameras(persons.gallery)
    if not any(seen.get(shot.person, set()) - {shot.camera} for shot in persons.query):
        raise ThinetError(
            f"no query of {folder} has its person in the gallery under another camera, so nothing "
            "can be found: unpack the published archive again."
        )


def _cameras(shots: Iterable[Shot]) -> dict[int, set[int]]:
    """The cameras that saw each person."""
    seen: dict[int, set[int]] = {}
    for shot in shots:
        seen.setdefault(shot.person, set()).add(shot.camera)
    return seen
