from __future__ import annotations

import pytest
import torch
import torchvision
from torch import nn

from experiments.architecture_coverage import one_network, peer, run
from experiments.architecture_coverage.picture import FAMILIES, families, halves
from experiments.architecture_coverage.run import Limits

NO_LIMIT = Limits(memory=1e12, patience=60)


@pytest.fixture(autouse=True)
def _small_images(monkeypatch):
    for module in (one_network, peer):
        monkeypatch.setattr(module, "image_size", lambda _: 64)


def test_no_tensor_of_a_built_network_is_constant():
    network = one_network.build("mnasnet0_5", 64)
    tensors = [*network.parameters(), *network.buffers()]
    assert all(len(x.unique()) > 1 for x in tensors if x.numel() > 1)


def test_a_head_of_zeros_is_drawn():
    head = nn.Linear(64, 10)
    nn.init.zeros_(head.weight)
    one_network.randomise_(head)
    assert head.weight.std().item() == pytest.approx(1 / 8, rel=0.2)


def test_a_plain_network_prunes_completely_and_a_shuffled_one_partly():
    plain = one_network.with_thinet("squeezenet1_1", memory=1e12)
    shuffled = one_network.with_thinet("shufflenet_v2_x0_5", memory=1e12)
    assert plain["prunes"] == "completely"
    assert plain["layers_left"] == 0
    assert shuffled["prunes"] == "partly"
    assert "depend on one another" in shuffled["why_left"]
    for row in (plain, shuffled):
        assert max(row["float32_batch1"], row["float32_batch3"]) < 1e-5
        assert max(row["float64_batch1"], row["float64_batch3"]) < 1e-12
        assert row["effect"] > 0.01  # or the law would be no check
        assert row["backward"] == row["backward_batch1"] == "finite"
        assert 0.25 <= row["flops_left"] < 0.6


def test_a_wrong_cut_is_seen_and_float64_is_left_out_above_the_limit():
    network = one_network.build("squeezenet1_1", 64)
    row = {"law_image_size": 64}
    slim, graph, keep = one_network.plan_and_cut(network, 64, row)
    others = sorted(set(range(graph.groups["features.0"].units)) - set(keep["features.0"]))
    one_network.check_law(network, slim, graph, keep | {"features.0": others}, row, memory=1.0)
    assert row["float32_batch3"] > 1e-4
    assert "float64" in row["unchecked"]
    assert "float64_batch1" not in row


def test_gradients_that_are_missing_or_infinite_are_named():
    network = nn.Sequential(nn.Flatten(), nn.Linear(3, 4), nn.Linear(4, 5))
    images = torch.randn(3, 3)
    assert one_network.gradients(network, images, train=True) == "finite"
    network.add_module("unused", nn.Identity())
    network.unused.extra = nn.Parameter(torch.ones(1))
    assert one_network.gradients(network, images, train=True) == "none for unused.extra"
    nn.init.constant_(network[2].weight, float("inf"))
    assert "not finite" in one_network.gradients(network, images, train=True)


def test_the_peer_runs_and_its_failures_are_told():
    pytest.importorskip("torch_pruning")
    row = peer.with_torch_pruning("squeezenet1_1", patience=60)
    assert row["tp_status"] == "ok"
    assert 0.2 < row["tp_flops_left"] < 0.4
    assert peer.with_torch_pruning("squeezenet1_1", 1e-3)["tp_status"] == "timeout"
    shuffled = peer.with_torch_pruning("shufflenet_v2_x0_5", patience=60)
    assert shuffled["tp_status"] == "raises"
    assert "ZeroDivisionError" in shuffled["tp_error"]


def test_processes_report_errors_and_are_stopped():
    unknown = run.measured("thinet", "nonet", NO_LIMIT, only_timing=False, patience=60)
    assert unknown["status"] == "raises"
    assert "nonet" in unknown["error"]
    slow = run.measured("thinet", "vgg11", NO_LIMIT, only_timing=False, patience=0.01)
    assert slow["status"] == "timeout"


def test_an_interrupted_run_goes_on_where_it_was(tmp_path, monkeypatch):
    asked = []

    def measured(tool, name, *_):
        asked.append((tool, name))
        if name == "vgg11" and len(asked) < 4:
            raise KeyboardInterrupt
        return {"status" if tool == "thinet" else "tp_status": "ok"}

    monkeypatch.setattr(run, "measured", measured)
    words = ["--out", str(tmp_path), "--resume", "--only", "alexnet", "vgg11"]
    with pytest.raises(KeyboardInterrupt):
        run.main(words)
    assert set(run.read(tmp_path / "results.csv")) == {"alexnet"}
    run.main(words)
    rest = [("thinet", "vgg11"), ("torch-pruning", "vgg11")]
    assert asked == [("thinet", "alexnet"), ("torch-pruning", "alexnet"), rest[0], *rest]
    assert (tmp_path / "figure.png").stat().st_size > 10_000


def test_timing_again_replaces_nothing_else(tmp_path, monkeypatch):
    table = tmp_path / "results.csv"
    run.write(table, {"vgg11": {"name": "vgg11", "status": "ok", "cut_s": "9", "effect": ".5"}})
    monkeypatch.setattr(run, "measured", lambda *_: {"status": "ok", "cut_s": "1"})
    run.main(["--out", str(tmp_path), "--only-timing", "--only", "vgg11"])
    row = run.read(table)["vgg11"]
    assert (row["cut_s"], row["effect"], row["tp_status"]) == ("1", ".5", "")


def test_every_network_has_one_family_and_families_stay_whole():
    names = torchvision.models.list_models(module=torchvision.models)
    assert all(sum(name.startswith(starts) for _, starts in FAMILIES) == 1 for name in names)
    groups = families([{"name": name} for name in names])
    parts = halves(groups)
    assert [group for part in parts for group in part] == groups
    assert all(30 < sum(len(members) for _, members in part) < 50 for part in parts)
