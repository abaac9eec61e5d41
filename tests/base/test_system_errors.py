"""Errors of the machine become sentences; each error here is what the library really raises."""

from __future__ import annotations

import errno
import os
import re
import signal

import numpy as np
import pytest
import torch
from PIL import Image

from thinet.base.system_errors import is_lost_process, system_error
from thinet.datasets.images import Images, ImageView
from thinet.datasets.loader import EpochLoader
from thinet.datasets.unreadable import UnreadableImages


class Deadly(Images):
    """Kills the process that loads its fourth image, as the kernel does when memory is short."""

    def __init__(self) -> None:
        self.labels = np.zeros(8, dtype=np.int64)

    def load(self, index: int) -> Image.Image:
        if index == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return Image.new("RGB", (4, 4))

    def content(self, indices):
        return b""


def to_tensor(image: Image.Image) -> torch.Tensor:
    return torch.zeros(3, 4, 4)


def test_a_killed_loader_process() -> None:
    loader = EpochLoader(
        ImageView(Deadly(), range(8), to_tensor), UnreadableImages(0), num_workers=1, batch_size=2
    )
    said = None
    try:  # pytest.raises would keep the loader alive in a reference cycle
        list(loader)
    except RuntimeError as error:
        said = system_error(error)
    assert said is not None
    # torch does not always learn by what signal it was.
    assert re.match(r"a process that loads images died \((Killed|it ended unexpectedly);", said)
    assert "type the same command again" in said
    assert "dataset.num_workers" in said


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk(number: int) -> None:
    said = system_error(OSError(number, os.strerror(number), "/data/last.ckpt"))
    assert said is not None
    assert said.startswith("cannot read or write /data/last.ckpt (")
    assert "free some space" in said


def test_a_disk_that_is_really_full() -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    with pytest.raises(OSError, match="No space left") as caught:
        os.write(full, b"x" * 100)
    os.close(full)
    said = system_error(caught.value)
    assert said is not None
    assert "free some space" in said


def test_another_folder_is_advised_where_space_is_not_the_matter(tmp_path) -> None:
    with pytest.raises(IsADirectoryError) as caught:
        tmp_path.write_text("")
    said = system_error(caught.value)
    assert said is not None
    assert "paths.outputs" in said
    assert "space" not in said


def test_too_little_memory() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**46)
    said = system_error(caught.value)
    assert said is not None
    assert "too little memory" in said


LOST = [
    RuntimeError("[/pytorch/gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]"),
    RuntimeError("[pair.cc:1] Read error [127.0.0.1]:29500: Connection reset by peer"),
    ConnectionResetError(104, "Connection reset by peer"),
    torch.distributed.DistNetworkError("the client socket has failed to connect"),
]


@pytest.mark.parametrize("error", LOST, ids=lambda error: type(error).__name__)
def test_another_process_of_the_run_has_ended(error: Exception) -> None:
    assert is_lost_process(error)
    said = system_error(error)
    assert said is not None
    assert "another process of this run has ended" in said
    assert "\n" not in said


@pytest.mark.parametrize("error", [ValueError("x"), RuntimeError("shape mismatch"), KeyError("a")])
def test_other_errors_are_not_explained_away(error: Exception) -> None:
    assert system_error(error) is None
    assert not is_lost_process(error)
