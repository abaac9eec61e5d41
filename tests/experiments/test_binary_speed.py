"""The study of binary speed measures what it says, and only what it does not know."""

from __future__ import annotations

import csv

import pytest
import torch

from thinet.artifacts.openvino.package import has_openvino

if not has_openvino():  # importing it would report that to its vendor
    pytest.skip("openvino is not installed", allow_module_level=True)

from experiments.binary_speed import engines, equality, run
from thinet.artifacts.openvino.conversion import converted
from thinet.artifacts.openvino.deployed import compiled
from thinet.quantization.layers import binary_layers


def test_eight_bits_are_eight_bits():
    images = torch.randn(1, *engines.TINY.shape)
    graph = converted(engines.TINY.full(), engines.TINY.shape).graph
    model = compiled(engines.eight_bits(graph, images, 1), tuple(images.shape), 1)
    nodes = model.get_runtime_model().get_ops()
    kinds = [node.get_rt_info()["primitiveType"].value for node in nodes]
    assert any("I8" in kind for kind in kinds), kinds
    exact = compiled(graph, tuple(images.shape), 1)(images.numpy())[0]
    found = model(images.numpy())[0]
    assert 1e-4 < abs(found - exact).max() / abs(exact).max() < 0.05


def test_subjects_differ_in_their_arithmetic_alone():
    full, binary = engines.TINY.full(), engines.TINY.binary(2)
    assert binary.quantizer.order == 2
    assert binary.weight.equal(full.weight)
    names = {layer.name: layer for layer in (*engines.LAYERS, *engines.WHOLE)}
    assert len(names) == 9
    small = engines.Subject("vgg_small 128-256-512", 0, 32)
    assert len(binary_layers(small.binary(1))) == 5
    assert small.theory(2) is None
    assert engines.LAYERS[1].theory(2) == pytest.approx(29.54, abs=0.01)


def test_known_rows_are_not_measured_again(tmp_path, monkeypatch):
    measured = []

    def measure(subject, threads, *_):
        measured.append((subject.name, threads))
        factors = {f"order{order}_over_fp32": 2.5 for order in (1, 2, 3)}
        more = {"int8_over_fp32": 3.0, "order2_popcount_limit": 5.0}
        return {"subject": subject.name, "threads": threads, **factors, **more}

    monkeypatch.setattr(run, "measure", measure)
    words = ["--smoke", "--out", str(tmp_path)]
    run.main(words)
    before = list(csv.DictReader((tmp_path / "results.csv").open()))
    run.main(words)
    run.main([*words, "--threads", "1", "2"])
    assert measured == [(engines.TINY.name, 1), (engines.TINY.name, 2)]
    after = list(csv.DictReader((tmp_path / "results.csv").open()))
    assert after[:1] == before
    assert len(after) == 2
    run.main([*words, "--fresh"])
    assert measured[2:] == [(engines.TINY.name, 1)]


def test_the_comparison_of_layers(tmp_path, capsys):
    equality.main(["--limit", "3", "--out", str(tmp_path)])
    assert "3 layers, 0 wrong" in capsys.readouterr().out
    made, wanted = torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 4.0]])
    assert equality._beyond(made, wanted, torch.zeros(1, 2)) == 0.5
    assert equality._beyond(made, wanted, torch.tensor([[0.0, 1.0]])) == 0.25
    assert list(tmp_path.iterdir()) == [tmp_path / "equality.csv"]
