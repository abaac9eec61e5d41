"""Exported networks give the outputs of the original; a failed export leaves no file."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from torch import nn

import thinet
from thinet.artifacts import export as exporting
from thinet.artifacts.export import export
from thinet.artifacts.store import Spec, save
from thinet.base.errors import ThinetError
from thinet.models import build

KINDS = ["onnx", "pt2"]


@pytest.fixture(params=["small_vgg.vgg_small", "cifar_resnet.resnet20"])
def saved(request, tmp_path):
    arguments = {"num_classes": 5, "image_size": 16}
    if request.param.endswith("vgg_small"):
        arguments["widths"] = [4, 8]
    builder = {"target": f"thinet.models.{request.param}", "arguments": arguments}
    torch.manual_seed(0)
    images = torch.randn(4, 3, 16, 16)
    network = build(builder["target"], **arguments)
    result = thinet.prune(network, [images], 0.5, "weight_sum", "none")
    return save(result, tmp_path / "model", Spec(builder=builder))


def need(kind):
    for name in ("onnx", "onnxscript", "onnxruntime") if kind == "onnx" else ():
        pytest.importorskip(name)


def run_exported(path: Path, images: torch.Tensor) -> torch.Tensor:
    if path.suffix == ".onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        return torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])
    return torch.export.load(path).module()(images)


@pytest.mark.parametrize("kind", KINDS)
def test_outputs_are_those_of_the_slim_network(kind, saved):
    need(kind)
    path, worst = export(saved, kind)
    assert path == saved / f"model.{kind}"
    assert 0 <= worst < 1e-4
    for batch in (1, 2, 7):
        images = torch.randn(batch, 3, 16, 16)
        with torch.no_grad():
            wanted = thinet.load(saved)(images)
        torch.testing.assert_close(run_exported(path, images), wanted, rtol=1e-3, atol=1e-5)
    if kind == "onnx":
        import onnx

        sizes = {one.name: tuple(one.dims) for one in onnx.load(path).graph.initializer}
        slim = {tuple(p.shape) for p in thinet.load(saved).parameters() if p.dim() == 4}
        assert slim <= set(sizes.values()), "the full network was exported"


def leftovers(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {"model.safetensors", "spec.json"}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("differences", [(0.0, 0.5), (float("nan"), 0.0), (0.0, float("nan"))])
def test_a_network_that_differs_is_not_kept(kind, differences, saved, monkeypatch):
    monkeypatch.setattr(exporting, f"_{kind}", _writes_rubbish)
    values = iter(differences)
    monkeypatch.setattr(exporting, "difference", lambda *_: next(values))
    with pytest.raises(ThinetError, match=r"differs .*try --(onnx|pt2) instead"):
        export(saved, kind)
    assert leftovers(saved) == set()


def _writes_rubbish(network, example, path):
    path.write_bytes(b"x")
    return network


def test_the_comparison_sees_a_difference(saved):
    network = thinet.load(saved)
    assert exporting.difference(network, lambda x: [network(x)], (3, 16, 16), 2) == 0.0
    wrong = exporting.difference(network, lambda x: [network(x) * 1.01], (3, 16, 16), 2)
    assert wrong == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_a_crash_leaves_no_file(kind, saved, monkeypatch):
    def crash(network, example, path):
        path.write_bytes(b"half")
        raise RuntimeError("the exporter\nbroke")

    monkeypatch.setattr(exporting, f"_{kind}", crash)
    with pytest.raises(ThinetError, match="the exporter") as caught:
        export(saved, kind)
    assert "\n" not in str(caught.value)
    assert leftovers(saved) == set()


class Branching(nn.Module):
    """Its code depends on the values of the image, which no exporter can follow."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(12, 2)

    def forward(self, x):
        return self.linear(x.flatten(1)) if float(x.sum()) > 0 else self.linear(-x.flatten(1))


@pytest.mark.parametrize("kind", KINDS)
def test_a_network_that_cannot_be_exported(kind, tmp_path):
    need(kind)
    save(Branching(), tmp_path, Spec(input_shape=(3, 2, 2)))
    with pytest.raises(ThinetError, match="cannot be exported"):
        export(tmp_path, kind, Branching())
    assert leftovers(tmp_path) == set()


def test_an_earlier_export_survives_a_failed_one(saved, monkeypatch):
    (saved / "model.pt2").write_bytes(b"good")
    monkeypatch.setattr(exporting, "_pt2", _writes_rubbish)
    monkeypatch.setattr(exporting, "difference", lambda *_: 1.0)
    with pytest.raises(ThinetError):
        export(saved, "pt2")
    assert (saved / "model.pt2").read_bytes() == b"good"


def test_missing_packages_are_named(saved, monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "onnx" else real(name, *a)
    )
    with pytest.raises(
        ThinetError, match=r"--onnx needs onnx: type pip install 'thinet\[export\]'"
    ):
        export(saved, "onnx")


def test_a_network_without_the_size_of_its_images(tmp_path):
    save(Branching(), tmp_path)
    with pytest.raises(ThinetError, match="how large its images are"):
        export(tmp_path, "pt2", Branching())
