"""Runs whose later stages need what earlier ones left: the original network, its filters."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import thinet
from tests.conftest import set_up
from thinet.pruning import group as cutting
from thinet.run.state import RunState

NETWORK = """
import torch
from torch import nn

class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)

    def forward(self, x):
        return torch.relu(self.bn2(self.conv2(torch.relu(self.conv1(x)))) + x)

class Residual(nn.Module):
    def __init__(self, num_classes: int, image_size: int) -> None:
        super().__init__()
        self.stem, self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), Block(8), Block(8)
        self.head = nn.Linear(8, num_classes)

    def forward(self, images):
        return self.head(self.b(self.a(torch.relu(self.stem(images)))).mean((2, 3)))
"""
STREAM, INNER = "stem", ["a.conv1", "b.conv1"]
SMALL = (
    "model=resnet20", "model.build._target_=small_residual.Residual", "reconstruction=refit",
    "reconstruction.build.target=original", "reconstruction.build.ridge=0", "criterion=l2",
    "calibration.positions=null",
    "reconstruction.recalibrate_bn=never", f"layers=[{STREAM},{','.join(INNER)}]",
    "dataset.image_size=8", "dataset.calibration_per_class=2", "trainer=cpu",
    "trainer.progress=off", "trainer.max_steps_per_epoch=2", "baseline.epochs=1",
    "finetune.stage.epochs=1", "finetune.final.epochs=0",
)  # fmt: skip


@pytest.fixture
def _importable(tmp_path, monkeypatch):
    """The network's file lies in a package of the user's own."""
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "small_residual.py").write_text(NETWORK)
    monkeypatch.syspath_prepend(tmp_path / "package")
    monkeypatch.setenv("THINET_TRUST", "small_residual")


@pytest.fixture
def cuts(monkeypatch):
    """Of each cut its name, the network before and after it, the reference and the images."""
    found, looked, original, rank = [], [], cutting.cut_group_, cutting.rank_groups

    def see(network, groups, criterion, needs, calibration):
        looked.append(calibration)
        return rank(network, groups, criterion, needs, calibration)

    def note(network, graph, name, count, ranked, reconstruction, reference):
        assert reference is looked[-1].reference
        before = [copy.deepcopy(network), copy.deepcopy(reference.network)]
        filters = dict(reference.filters)
        result = original(network, graph, name, count, ranked, reconstruction, reference)
        images = torch.stack(list(looked[-1].images))
        found.append((name, *before, filters, copy.deepcopy(network), images, result[0]))
        return result

    monkeypatch.setattr(cutting, "rank_groups", see)
    monkeypatch.setattr(cutting, "cut_group_", note)
    return found


class KilledError(BaseException):
    """Stands for kill -9."""


@torch.no_grad()
def second_block(net, images):
    """What the last convolution of the second block reads, gives, and the sum that it ends in."""
    net = net.double().eval()
    x = net.a(F.relu(net.stem(images.double())))
    read = F.relu(net.b.conv1(x))
    raw = net.b.conv2(read)
    return read, raw, net.b.bn2(raw) + x


def rows(maps):
    return maps.flatten(2).transpose(1, 2).flatten(0, 1).numpy()


@pytest.mark.usefixtures("_importable")
def test_later_stages_aim_at_the_original_network(compose, cuts, tmp_path, monkeypatch):
    """Three stages with fine-tuning and a kill between them; the last cut against numpy."""
    original = RunState.save

    def save(self, folder):
        original(self, folder)
        if len(self.steps) == 2:
            raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(RunState, "save", save)
        with pytest.raises(KilledError):
            set_up(compose(*SMALL), tmp_path / "run").run()
    run = set_up(compose(*SMALL), tmp_path / "run")
    assert len(run.state.steps) == 2
    assert (run.folder / "steps" / "baseline.safetensors").exists()
    run.run()
    assert [cut[0] for cut in cuts] == [STREAM, *INNER]

    baseline = thinet.load(run.setup.source.cache).state_dict()
    kept: dict[str, list[int]] = {}
    for _, _, aim, filters, _, _, records in cuts:
        for name, tensor in aim.state_dict().items():
            assert torch.equal(tensor, baseline[name]), f"the reference is no baseline: {name}"
        assert {name: one.tolist() for name, one in filters.items()} == kept
        kept |= {f"{record.layer}.weight": record.kept for record in records}

    _, before, aim, _, after, images, (record,) = cuts[-1]
    _, _, wanted = second_block(aim, images)
    read, raw, total = second_block(before, images)
    stream = kept[f"{STREAM}.weight"]
    norm = before.b.bn2
    scale = (norm.weight / (norm.running_var + norm.eps).sqrt()).detach()
    target = rows((wanted[:, stream] - total) / scale.view(-1, 1, 1) + raw)
    U = rows(F.unfold(read[:, record.kept], 3, padding=1)[..., None])
    ones = np.ones((len(U), 1))
    solution = np.linalg.lstsq(np.hstack([U, ones]), target, rcond=None)[0]
    slim = after.double().b
    fitted = U @ slim.conv2.weight.detach().flatten(1).numpy().T
    shift = (norm.running_mean - slim.bn2.running_mean).numpy()
    spread = target.std()
    np.testing.assert_allclose(fitted + shift, np.hstack([U, ones]) @ solution, atol=1e-3 * spread)
    stale = raw.transpose(0, 1).flatten(1).T.numpy()
    assert np.abs(stale - target).max() > spread / 10, "nothing was to be made good"
    assert not (run.folder / "steps" / "baseline.safetensors").exists()


def test_statistics_are_re_estimated_after_each_cut_of_a_run(make_run):
    """What a run does is what ``thinet.prune`` does with the same images."""
    more = ("schedule=oneshot", "finetune.final.epochs=0", "criterion=thinet")
    run = make_run(*more, "reconstruction.recalibrate_bn=each")
    run.run()
    found = thinet.load(run.folder / "model").state_dict()
    full = thinet.load(run.setup.source.cache)
    images = torch.stack([image for image, _ in run.setup.data.calibration()])
    slim, choosing = {}, run.method.choosing
    for when in ("each", "after"):
        slim[when] = thinet.prune(
            full, [images], 0.5, choosing.criterion, choosing.reconstruction,
            layers=["features.0", "features.3", "features.7"], recalibrate_bn=when,
            sampling=choosing.sampling,
        ).model.state_dict()  # fmt: skip
    assert any(not torch.equal(found[name], slim["after"][name]) for name in found)
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, slim["each"][name], rtol=1e-4, atol=1e-5, msg=name)
