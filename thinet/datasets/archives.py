"""Published archives: fetched, checked and unpacked beside their place, and then moved there.

Nothing is unpacked by a library's own extraction, which in many versions follows links and names
out of the folder: the few files that are wanted are read from the archive and written by name.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import tarfile
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from torchvision.datasets.utils import download_url

from thinet.base.errors import ThinetError
from thinet.base.folders import new_folders, remove_empty

_LARGEST = 2**30
"""Bytes that one file of a small published data set can have."""
_MOST = 10_000
"""Members of an archive."""


@dataclass(frozen=True)
class Archive:
    """A file that is published somewhere.

    Attributes:
        urls: Where it is, the first that answers.
        name: Of the file.
        md5: Of its content.
        folder: Where it is unpacked, relative to the root. That of a ``.gz`` is the folder of its
            only file; a tar archive has folders of its own.
    """

    urls: tuple[str, ...]
    name: str
    md5: str
    folder: Path = Path()


def fetch(archives: Iterable[Archive], wanted: Sequence[Path], root: Path) -> None:
    """Put files of archives where they belong; what is there already stays as it is.

    Args:
        archives: Those that hold them. One that lies in its folder already is not fetched.
        wanted: Files, relative to the root.
        root: Folder of the data set.

    Raises:
        ThinetError: If an archive has a member that is neither a file nor a folder, lies outside
            or is too large, or if a file is in none of them.
        OSError: If there is no network or no space.
        RuntimeError: If what was fetched is not what was published.
    """
    made = new_folders(root)
    try:
        root.mkdir(parents=True, exist_ok=True)
        # Moved at the end, so that a kill on the way leaves nothing that looks like the data set.
        with tempfile.TemporaryDirectory(dir=root, prefix=".download-") as name:
            place = Path(name)
            for archive in archives:
                _unpack(archive, wanted, root, place)
            for path in wanted:
                if not (place / "files" / path).is_file():
                    raise ThinetError(f"{path} is in none of its archives")
            for path in wanted:
                _move(place / "files" / path, root / path, root)
    finally:
        remove_empty(made)


def _unpack(archive: Archive, wanted: Sequence[Path], root: Path, place: Path) -> None:
    if archive.name.endswith((".tar.gz", ".tgz", ".tar")):
        unpack_tar(_find(archive, root, place), wanted, place / "files")
        return
    path = archive.folder / Path(archive.name).stem
    if path in wanted:
        with gzip.open(_find(archive, root, place)) as content:
            _write(content, place / "files" / path, _LARGEST)


def unpack_tar(source: Path, wanted: Sequence[Path], folder: Path) -> None:
    """Write the wanted files of a tar archive.

    Args:
        source: The archive, compressed or not.
        wanted: Their names in it; others are passed over.
        folder: Where to.

    Raises:
        ThinetError: If a member, wanted or not, is a link, device or pipe, lies outside, or is too
            large: then the archive is not what it should be.
        tarfile.TarError: If it is damaged.
    """
    names = {path.as_posix() for path in wanted}
    with tarfile.open(source) as archive:
        for number, member in enumerate(archive):
            path = PurePosixPath(member.name)
            if path.is_absolute() or ".." in path.parts or "\\" in member.name:
                raise ThinetError(f"its member {member.name[:100]!r} lies outside of the folder")
            if not (member.isreg() or member.isdir()):
                raise ThinetError(f"its member {member.name[:100]!r} is no file")
            if member.size > _LARGEST or number >= _MOST:
                raise ThinetError(f"its member {member.name[:100]!r} is one too large or too many")
            if not member.isreg() or path.as_posix() not in names:
                continue
            content = archive.extractfile(member)
            assert content is not None  # it is a regular file
            with content:
                _write(content, folder / path, member.size)


def _find(archive: Archive, root: Path, place: Path) -> Path:
    """The archive, if it lies where torchvision leaves it, or fetched."""
    there = root / archive.folder / archive.name
    if there.is_file() and _md5(there) == archive.md5:
        return there
    failure: Exception | None = None
    for url in archive.urls:
        try:
            download_url(url, place, archive.name, archive.md5)
            return place / archive.name
        except (OSError, RuntimeError) as error:
            failure = error
    assert failure is not None
    raise failure


def _md5(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _write(content: IO[bytes] | gzip.GzipFile, path: Path, size: int) -> None:
    """Write a file of at most so many bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as file:
        while block := content.read(min(2**20, size + 1)):
            size -= len(block)
            if size < 0:
                raise ThinetError(f"{path.name} unpacks to more than it should")
            file.write(block)
        file.flush()
        os.fsync(file.fileno())


def _move(source: Path, target: Path, root: Path) -> None:
    """Move a file to its place, unless something is there.

    Raises:
        ThinetError: If its folder is a link to another place.
    """
    if not target.parent.resolve().is_relative_to(root.resolve()):
        raise ThinetError(f"{target.parent} is a link to another place")
    target.parent.mkdir(parents=True, exist_ok=True)
    if not os.path.lexists(target):
        os.rename(source, target)
