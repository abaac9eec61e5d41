"""What README tells people to type."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from thinet.app.config import build, check
from thinet.artifacts.store import Builder, Spec, save
from thinet.models.small_vgg import vgg_small
from thinet.pruning.plan import needs_network

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "README.md").read_text()
BLOCKS = "\n".join(re.findall(r"```bash\n(.*?)```", TEXT, flags=re.DOTALL)).replace("\\\n", " ")
RUNS = [line for line in BLOCKS.splitlines() if line.startswith("python run.py")]
EXPERIMENTS = [
    line.removeprefix("# ")
    for path in sorted((ROOT / "conf" / "experiment").glob("*.yaml"))
    for line in path.read_text().splitlines()
    if line.startswith("# python run.py")
]


def test_there_are_exactly_two_set_up_commands():
    section = TEXT.partition("## Set-up")[2].partition("\n## ")[0]
    assert len(re.findall(r"```bash\n", section)) == 2
    assert "<!-- run command -->" in section
    assert "<!-- test command -->" in section


def saved(folder: Path) -> Path:
    """A network as a run leaves it, which tells what images are like where there are none."""
    arguments = {"widths": [4, 8], "num_classes": 100, "image_size": 32}
    spec = Spec(
        Builder("thinet.models.small_vgg.vgg_small", arguments), input_shape=(3, 32, 32),
        mean=(0.5,) * 3, std=(0.5,) * 3, classes=tuple(map(str, range(100))),
    )  # fmt: skip
    save(vgg_small(**arguments), folder / "model", spec)
    return folder


@pytest.mark.parametrize("line", RUNS + EXPERIMENTS)
def test_its_runs_are_valid(line, compose, tmp_path, monkeypatch):
    # Files and folders in the examples are the reader's own.
    mine = re.sub(r"=\S*<[^>]*>|=resnet56.safetensors", "=MINE", line).replace(" ...", "")
    words = shlex.split(mine, comments=True)[2:]
    flags = {"-m", "--help", "--cfg", "job"}
    overrides = [word.split(",")[0] if "-m" in words else word for word in words]
    overrides = [word for word in overrides if word not in flags and word != "dataset.root=MINE"]
    overrides = ["model.weights=none" if "weights=MINE" in word else word for word in overrides]
    teacher = f"teacher={saved(tmp_path)}" if "dataset=none" in words else "model@teacher=resnet56"
    overrides = [teacher if word == "teacher=MINE" else word for word in overrides]
    (tmp_path / "state.json").write_text("{}")
    (tmp_path / "found.yaml").write_text("'*': 0.5")
    found = {
        "ratio=MINE": f"ratio=@{tmp_path / 'found.yaml'}",
        "method.of=MINE": f"method.of={tmp_path}",
    }
    overrides = [found.get(word, word) for word in overrides]
    config = check(compose(*overrides, "trainer=cpu", "++dataset.num_classes=100"))
    setup, method = build(config)
    plan = method.plan(setup, method.remembers())
    assert getattr(plan, "rows", plan) or needs_network(method.request)
