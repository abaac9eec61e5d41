"""Archives are unpacked by name, beside their place, and moved there when they are whole."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
from pathlib import Path

import pytest

from thinet.base.errors import ThinetError
from thinet.datasets import archives
from thinet.datasets.archives import Archive, fetch, unpack_tar

WANTED = [Path("set/a"), Path("set/b")]


def tar(members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o4777
            archive.addfile(entry, io.BytesIO(content))
    return file.getvalue()


@pytest.fixture
def publish(monkeypatch):
    """Make ``download_url`` deliver these bytes, whatever the address."""

    def make(content: bytes, name: str = "set.tar.gz", folder: Path = Path()) -> Archive:
        def download(url: str, root: Path, filename: str, md5: str) -> None:
            if "broken" in url:
                raise OSError("no such host")
            (root / filename).write_bytes(content)

        monkeypatch.setattr(archives, "download_url", download)
        urls = ("http://broken", "http://good")
        return Archive(urls, name, hashlib.md5(content).hexdigest(), folder)

    return make


def files(root: Path) -> dict[str, bytes]:
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file()
    }


def test_what_is_wanted_arrives_and_nothing_else(publish, tmp_path):
    archive = publish(tar({"set/a": b"1", "set/b": b"22", "set/readme": b"x", "other/a": b"y"}))
    fetch([archive], WANTED, tmp_path / "new" / "data")
    assert files(tmp_path) == {"new/data/set/a": b"1", "new/data/set/b": b"22"}
    assert (tmp_path / "new/data/set/a").stat().st_mode & 0o7111 == 0


def test_what_is_there_stays(publish, tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a").write_bytes(b"mine")
    (tmp_path / "set.tar.gz").write_bytes(b"somebody's")
    archive = publish(tar({"set/a": b"1", "set/b": b"2"}))
    fetch([archive], WANTED, tmp_path)
    assert files(tmp_path) == {"set/a": b"mine", "set/b": b"2", "set.tar.gz": b"somebody's"}


def test_an_archive_that_lies_there_is_not_fetched(publish, tmp_path, monkeypatch):
    content = tar({"set/a": b"1", "set/b": b"2"})
    archive = publish(content)
    (tmp_path / archive.name).write_bytes(content)
    monkeypatch.setattr(archives, "download_url", lambda *_: pytest.fail("it was fetched"))
    fetch([archive], WANTED, tmp_path)
    assert (tmp_path / "set/b").read_bytes() == b"2"


def test_single_files_are_unpacked(publish, tmp_path):
    archive = publish(gzip.compress(b"abc"), "x-ubyte.gz", Path("Set/raw"))
    fetch([archive], [Path("Set/raw/x-ubyte")], tmp_path)
    assert files(tmp_path) == {"Set/raw/x-ubyte": b"abc"}


@pytest.mark.parametrize("name", ["/etc/evil", "../evil", "set/../../evil", "set\\..\\evil"])
def test_names_that_lead_out(name, tmp_path):
    (tmp_path / "x.tar.gz").write_bytes(tar({"set/a": b"1", name: b"2"}))
    with pytest.raises(ThinetError, match="lies outside"):
        unpack_tar(tmp_path / "x.tar.gz", WANTED, tmp_path / "out")


@pytest.mark.parametrize("name", ["set/a", "elsewhere"])
@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE,
                                  tarfile.CHRTYPE, tarfile.BLKTYPE])  # fmt: skip
def test_members_that_are_no_files(kind, name, tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        entry = tarfile.TarInfo(name)
        entry.type, entry.linkname = kind, "set/b"
        archive.addfile(entry)
    with pytest.raises(ThinetError, match="is no file"):
        unpack_tar(tmp_path / "x.tar", WANTED, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_archive_that_unpacks_to_too_much(publish, tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "_LARGEST", 1000)
    for content, name, wanted in (
        (tar({"set/a": bytes(1001)}), "x.tar.gz", Path("set/a")),
        (gzip.compress(bytes(1001)), "a.gz", Path("a")),
    ):
        with pytest.raises(ThinetError, match=r"too large|more than it should"):
            fetch([publish(content, name)], [wanted], tmp_path)
        assert files(tmp_path) == {}
    monkeypatch.setattr(archives, "_MOST", 2)
    (tmp_path / "x.tar.gz").write_bytes(tar(dict.fromkeys("abc", b"")))
    with pytest.raises(ThinetError, match="too many"):
        unpack_tar(tmp_path / "x.tar.gz", WANTED, tmp_path / "out")


def test_an_interrupted_unpacking_leaves_nothing(publish, tmp_path, monkeypatch):
    whole = tar({"set/a": b"1" * 10**4, "set/b": b"2" * 10**4})
    for content in (whole[: len(whole) // 2], tar({"set/a": b"1"})):
        with pytest.raises((EOFError, tarfile.TarError, ThinetError)):
            fetch([publish(content)], WANTED, tmp_path / "data")
        assert list(tmp_path.iterdir()) == []

    def stop(*_):
        raise KeyboardInterrupt

    archive = publish(whole)
    monkeypatch.setattr(archives.os, "fsync", stop)
    with pytest.raises(KeyboardInterrupt):
        fetch([archive], WANTED, tmp_path / "data")
    assert list(tmp_path.iterdir()) == []


def test_a_link_in_the_data_folder_is_not_followed(publish, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "set").symlink_to(tmp_path / "elsewhere")
    for names in (("set/a", "set/b"), ("set/raw/a", "set/raw/b")):
        archive = publish(tar(dict.fromkeys(names, b"1")))
        with pytest.raises(ThinetError, match="a link to another place"):
            fetch([archive], [Path(name) for name in names], tmp_path / "data")
    assert list((tmp_path / "elsewhere").iterdir()) == []
