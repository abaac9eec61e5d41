"""Programs that are started without streams, or whose reader ends before they do."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from thinet.base.errors import Unread
from thinet.base.messages import is_unread, logging_to, say

ROOT = Path(__file__).parents[2]
MAIN = """
from thinet.base.lifeline import begin
begin()
from thinet.app.cli_errors import errors_as_sentences
from thinet.base.messages import logging_to, say
def main():
    with logging_to(None):
        {body}
errors_as_sentences(main)
"""


def start(body: str, **streams) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", MAIN.format(body=body)], text=True, timeout=120, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, **streams,
    )  # fmt: skip


@pytest.fixture
def unread():
    """The end of a pipe to a reader that has gone."""
    reading, writing = os.pipe()
    os.close(reading)
    yield writing
    os.close(writing)


TABLE = "from thinet.report.terminal import _console; _console().print('x')"


@pytest.mark.parametrize(
    "body", ["say('x'); print('no')", "print('x', flush=True)", "print('x')", TABLE]
)
def test_a_reader_that_has_gone_ends_the_run_with_a_sentence(body, unread):
    done = start(body, stdout=unread, stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr.count("\n")) == (141, 1), done.stderr
    assert done.stderr.startswith("stopped, since nothing reads the output")


def test_another_broken_pipe_is_an_error_of_its_own(unread, tmp_path):
    body = f"import os; os.write({unread}, b'x')"
    with open(tmp_path / "out", "w") as out:
        done = start(body, stdout=out, stderr=subprocess.PIPE, pass_fds=(unread,))
    assert done.returncode == 1
    assert "BrokenPipeError" in done.stderr


def test_a_line_that_nothing_reads(unread, monkeypatch):
    with open(unread, "w", closefd=False) as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        assert is_unread(stream)
        with pytest.raises(Unread), logging_to(None):
            say("x")
        os.dup2(os.open(os.devnull, os.O_WRONLY), unread)  # for what is still to be written
        assert not is_unread(stream)


def test_closed_streams_are_opened_before_any_file_gets_their_numbers(tmp_path):
    code = MAIN.format(body=f"file = open({str(tmp_path / 'x')!r}, 'w'); say('a'); print('b'); "
                            "import os; os.write(1, b'c'); os.write(2, b'd'); "
                            "file.write(str(file.fileno()))")  # fmt: skip
    closed = f'exec "{sys.executable}" -c "$CODE" <&- >&- 2>&-'
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CODE": code}
    done = subprocess.run(["sh", "-c", closed], env=environment, timeout=120, check=False)
    assert done.returncode == 0
    assert int((tmp_path / "x").read_text()) > 2
