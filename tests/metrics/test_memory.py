"""Peak memory against tensors of a known size."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from thinet.metrics import PeakMemory, memory

CPU = torch.device("cpu")
MB = 1_000_000


def use(mb: int, device: torch.device = CPU) -> None:
    """Hold so much memory for a moment; it is returned to the system at once."""
    torch.ones(mb * MB, dtype=torch.uint8, device=device)


def resident_mb() -> float:
    """What the process holds now, by another file of the kernel's."""
    import resource

    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / MB


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux forgets an earlier peak")
def test_peak_of_a_stretch_is_its_own(fresh):
    fresh("tests.metrics.test_memory:check_a_stretch", cold=True)


def check_a_stretch():
    use(400)
    held = torch.ones(50 * MB, dtype=torch.uint8)
    measured = PeakMemory(CPU)
    assert measured.of == "process"
    before = resident_mb()
    assert measured.mb() == pytest.approx(before, abs=10)  # the 400 MB are forgotten
    use(200)
    assert measured.mb() == pytest.approx(before + 200, abs=10)
    assert resident_mb() == pytest.approx(before, abs=10)
    del held
    assert PeakMemory(CPU).mb() == pytest.approx(before - 50, abs=10)


def test_the_peak_of_a_gpu_can_be_asked_for_before_anything_ran_on_it(monkeypatch):
    # As a resumed run does. torch forgets a peak only on a device that has been started.
    started = []

    def forget(device):
        if not started:
            raise RuntimeError("Invalid device argument.")

    monkeypatch.setattr(torch.cuda, "init", lambda: started.append(True))
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", forget)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 3_000_000)
    measured = PeakMemory(torch.device("cuda", 0))
    assert (measured.mb(), measured.of) == (3.0, "GPU")


def test_where_the_peak_cannot_be_forgotten_that_is_said(monkeypatch):
    resource = pytest.importorskip("resource")
    monkeypatch.setattr(memory, "_CLEAR", Path("/nowhere/clear_refs"))
    measured = PeakMemory(CPU)
    assert "since its start" in measured.of
    unit = 1 if sys.platform == "darwin" else 1024
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / MB
    assert measured.mb() == pytest.approx(most, abs=10)
    use(int(most) + 100)
    assert measured.mb() > most + 50


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_peak_on_a_gpu():
    device = torch.device("cuda", 0)
    use(300, device)
    held = torch.ones(20 * MB, dtype=torch.uint8, device=device)
    measured = PeakMemory(device)
    use(100, device)
    assert measured.of == "GPU"
    assert measured.mb() == pytest.approx(120, abs=5)
    del held
