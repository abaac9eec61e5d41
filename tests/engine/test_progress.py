"""What a person sees while a network trains."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial

import pytest
import torch

from thinet.base.errors import ThinetError
from thinet.engine.phases import Phase
from thinet.engine.progress import Bar, PlainProgress, clock, progress_callbacks
from thinet.engine.settings import Training


def test_a_line_an_epoch_with_time_left(engine, make_network, tmp_path, capsys):
    engine.devices = replace(engine.devices, progress="lines")
    training = Training(partial(torch.optim.SGD, lr=1.0))
    engine.fit(make_network(), [Phase(2, 0.1)], training, "stage x", tmp_path)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    pattern = r"  stage x: epoch {}/2, loss \d+\.\d{{4}}, validation top-1 [\d.]+ %, \d\d:\d\d left"
    assert re.fullmatch(pattern.format(1), lines[0]), lines[0]
    assert re.fullmatch(pattern.format(2), lines[1]), lines[1]
    assert lines[1].endswith("00:00 left")


def test_off_is_silent(engine, make_network, tmp_path, capfd):
    training = Training(partial(torch.optim.SGD, lr=1.0))
    engine.fit(make_network(), [Phase(1, 0.1)], training, "stage x", tmp_path)
    engine.evaluate(make_network(), "val")
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize(
    ("mode", "terminal", "kind"),
    [("bar", False, Bar), ("lines", True, PlainProgress), ("auto", True, Bar),
     ("auto", False, PlainProgress)],
)  # fmt: skip
def test_modes(mode, terminal, kind, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: terminal, raising=False)
    (callback,) = progress_callbacks(mode, "title")
    assert type(callback) is kind


def test_unknown_mode():
    with pytest.raises(ThinetError, match="choose among auto, bar, lines, off"):
        progress_callbacks("loud", "title")


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "00:00"), (59.6, "01:00"), (3599, "59:59"), (3723, "1:02:03")]
)
def test_clock(seconds, text):
    assert clock(seconds) == text
