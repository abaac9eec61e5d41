"""A family in a package of its own, of which thinet knows nothing: nothing in thinet is edited.

Its method is found by its yaml, its page section by its package, its transform by the saved spec.
"""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest
import torch

import thinet
from tests import warm
from tests.app.conftest import ROOT, command, environment
from thinet.run.result import read_result

FAMILY = Path(__file__).parent / "toy_family"
SMALL = (
    "method=slopes", f"hydra.searchpath=[file://{FAMILY / 'conf'}]", "model.build.widths=[4,8]",
    "dataset.image_size=8", "trainer=cpu", "trainer.max_steps_per_epoch=2", "baseline.epochs=1",
    "trainer.progress=lines",
)  # fmt: skip


def surroundings() -> dict[str, str]:
    path = os.pathsep.join([str(FAMILY), os.environ.get("PYTHONPATH", "")])
    return {**environment(), "PYTHONPATH": path, "THINET_TRUST": "toyfamily"}


def run(outputs: Path, *more: str, kill_at: str | None = None) -> tuple[int, str]:
    """Run it, and kill it when a line begins in some way."""
    process = warm.start(
        command(*SMALL, f"paths.outputs={outputs}", *more), cwd=ROOT, env=surroundings(),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if kill_at is not None and line.startswith(kill_at):
            os.killpg(process.pid, signal.SIGKILL)
    return process.wait(), "".join(lines)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> tuple[Path, str]:
    outputs = tmp_path_factory.mktemp("whole")
    code, text = run(outputs)
    assert code == 0, text
    (folder,) = (path.parent for path in outputs.glob("*/result.json"))
    return folder, text


def test_it_runs_and_says_what_it_found(whole):
    folder, text = whole
    result = read_result(folder)
    assert folder.name.startswith("vgg_small-digits-slopes-k3-s0-")
    assert (result.run.method, len(result.steps)) == ("slopes", 3)
    assert result.settings == {"method.rounds": 3, "method.slope": 0.1}
    assert result.model is not None
    assert result.model.params == result.reference.params + 4
    assert set(result.details) == {"toyfamily"}
    for words in ("slopes: 3 rounds", "round 2: mean slope", "mean slopes learned: "):
        assert words in text
    for words in ("thinet, scale", "ratio", "layerwise"):
        assert words not in text.replace(str(ROOT), "")


def test_killed_it_resumes_to_the_same_bits(whole, tmp_path):
    folder, _ = whole
    code, text = run(tmp_path, kill_at="round 0:")
    assert code == -signal.SIGKILL, text
    code, text = run(tmp_path)
    assert code == 0, text
    assert "resuming after 1 of 3 steps" in text
    again = tmp_path / folder.name
    for name in ("model/model.safetensors", "model/spec.json"):
        if name.endswith("spec.json"):
            continue  # it holds a latency
        assert (again / name).read_bytes() == (folder / name).read_bytes()
    assert read_result(again).details == read_result(folder).details


def test_what_it_saves_is_loaded(whole, monkeypatch):
    folder, _ = whole
    monkeypatch.syspath_prepend(FAMILY)
    with pytest.raises(thinet.ThinetError, match="toyfamily"):
        thinet.load(folder / "model")
    monkeypatch.setenv("THINET_TRUST", "toyfamily")
    network = thinet.load(folder / "model")
    slopes = [value for name, value in network.named_parameters() if name.endswith("slope")]
    assert len(slopes) == 4
    mean = float(torch.stack(slopes).mean())
    assert mean == pytest.approx(read_result(folder).details["toyfamily"]["means"][-1], abs=1e-6)


def test_it_stands_on_pages(whole, tmp_path):
    folder, _ = whole
    page = (folder / "report.html").read_text()
    assert "mean slopes learned" in page
    other = warm.run(
        command("method=train", *SMALL[2:], f"paths.outputs={tmp_path}"), cwd=ROOT,
        env=environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert other.returncode == 0, other.stdout + other.stderr
    (trained,) = (path.parent for path in tmp_path.glob("*/result.json"))
    from thinet.report import compare_report

    text = compare_report([folder, trained], tmp_path / "both").read_text()
    assert "slopes" in text
    assert "2 runs" in text


def test_a_card_says_what_it_does():
    for card in (*(ROOT / "docs" / "methods").glob("*.md"), FAMILY / "slopes.md"):
        assert card.read_text().startswith(f"# method={card.stem}\n\n**Idea.** "), card
    methods = {path.stem for path in (ROOT / "conf" / "method").glob("*.yaml")}
    assert {path.stem for path in (ROOT / "docs" / "methods").glob("*.md")} == methods
