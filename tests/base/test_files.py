"""Writing so that a reader never sees half a file."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from thinet.base.errors import ThinetError
from thinet.base.files import (
    check_space,
    read_json,
    write_bytes_atomic,
    write_json_atomic,
    write_text_atomic,
)


def test_what_is_written_is_read_again(tmp_path):
    path = tmp_path / "new" / "folder" / "a.json"
    content = {"name": "Größe", "values": [1, 2.5, None, True], "nested": {"x": []}}
    assert write_json_atomic(path, content) == path
    assert read_json(path) == content
    assert write_text_atomic(tmp_path / "a.txt", "é\n").read_bytes() == b"\xc3\xa9\n"
    assert write_bytes_atomic(str(tmp_path / "b"), b"\x00\xff").read_bytes() == b"\x00\xff"


def test_the_old_file_stays_whole_until_the_new_one_is_complete(tmp_path, monkeypatch):
    path = write_text_atomic(tmp_path / "a.txt", "old")
    seen = []

    def replace(source, target):
        seen.append((path.read_text(), Path(source).read_text()))
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(ThinetError, match=r"No space left.*paths\.outputs"):
        write_text_atomic(path, "new")
    assert seen == [("old", "new")]
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]  # nothing half-finished is left


def test_nothing_else_stays_in_the_folder(tmp_path):
    for _ in range(3):
        write_text_atomic(tmp_path / "a.txt", "text")
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ThinetError, match="cannot write"):
        write_text_atomic(tmp_path / "file" / "a.txt", "text")
    with pytest.raises(ThinetError, match="cannot write"):
        write_text_atomic(tmp_path / "file" / "deeper" / "a.txt", "text")
    (tmp_path / "folder").mkdir()
    with pytest.raises(ThinetError, match="cannot write"):
        write_text_atomic(tmp_path / "folder", "text")


def test_unreadable_json_is_one_sentence(tmp_path):
    with pytest.raises(ThinetError, match="does not exist"):
        read_json(tmp_path / "missing.json")
    for bad in (b'{"a": 1', b"\xff\xfe", b""):
        (tmp_path / "bad.json").write_bytes(bad)
        with pytest.raises(ThinetError, match="cannot be read as JSON"):
            read_json(tmp_path / "bad.json")
    with pytest.raises(ThinetError, match="cannot be read as JSON"):
        read_json(tmp_path)


def test_a_disk_with_too_little_space_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=5_000_000))
    check_space(tmp_path / "not" / "there", 4_000_000)
    with pytest.raises(ThinetError, match="with 5 MB free, and this run needs about 6 MB: free"):
        check_space(tmp_path / "not" / "there", 6_000_000)


def test_the_bytes_are_on_the_disk_before_the_name_is(tmp_path, monkeypatch):
    """A rename may outlive a power cut that the bytes do not."""
    steps = []
    fsync, replace = os.fsync, os.replace

    def note_sync(number):
        steps.append(("sync", os.fstat(number).st_size))
        fsync(number)

    def note_rename(source, target):
        steps.append(("rename", Path(source).stat().st_size))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(os, "replace", note_rename)
    write_bytes_atomic(tmp_path / "a", b"12345")
    assert steps[:2] == [("sync", 5), ("rename", 5)]


def test_a_link_in_place_of_the_temporary_file_is_not_followed(tmp_path, monkeypatch):
    mine = tmp_path / "mine"
    mine.write_text("mine")
    monkeypatch.setattr("thinet.base.files.secrets.token_hex", lambda _: "1")
    (tmp_path / ".a.txt.1.partial").symlink_to(mine)
    with pytest.raises(ThinetError, match="cannot write"):
        write_text_atomic(tmp_path / "a.txt", "text")
    assert mine.read_text() == "mine"
    assert (tmp_path / ".a.txt.1.partial").is_symlink()
