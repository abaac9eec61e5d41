"""Whose a folder is, where it takes two runs to find out."""

from __future__ import annotations

import pytest
from filelock import FileLock

from thinet.run.folders import taken
from thinet.run.lock import HOLDER, LOCK, run_lock


def begin_and_fail(folder, before_it_fails) -> None:
    def begin() -> None:
        with taken(folder, "0a1b2c3d"):
            (folder / "run.log").write_text("one line")
            before_it_fails()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        begin()


def test_what_did_no_work_is_removed(tmp_path):
    begin_and_fail(tmp_path / "outputs" / "run", lambda: None)
    assert list(tmp_path.iterdir()) == []


def test_what_a_run_that_waited_has_begun_stays(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    waiting = FileLock(folder / LOCK)
    begin_and_fail(folder, waiting.acquire)
    assert {path.name for path in folder.iterdir()} == {LOCK, "run.log"}
    waiting.release()


def test_a_folder_that_is_removed_while_a_run_waits_for_it_is_made_again(tmp_path, monkeypatch):
    acquire, tried = FileLock.acquire, []

    def removed_meanwhile(lock, **more):
        tried.append(lock)
        if len(tried) == 1:
            raise FileNotFoundError(lock.lock_file)
        assert (tmp_path / "run").is_dir()
        return acquire(lock, **more)

    monkeypatch.setattr(FileLock, "acquire", removed_meanwhile)
    with run_lock(tmp_path / "run"):
        assert {path.name for path in (tmp_path / "run").iterdir()} == {LOCK, HOLDER}
