"""Networks in OpenVINO: exported after a comparison, deployed from what belongs to them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from thinet.artifacts.openvino.package import has_openvino

if not has_openvino():  # importing it would report that to its vendor
    pytest.skip("openvino is not installed", allow_module_level=True)

import thinet
from thinet.artifacts.export import export
from thinet.artifacts.openvino import checking, conversion, deployed, files, package
from thinet.artifacts.openvino.deployed import Deployed
from thinet.artifacts.store import Spec, save
from thinet.base.errors import ThinetError
from thinet.cli import main
from thinet.models import build

SHAPE = (3, 16, 16)
BUILDER = {
    "target": "thinet.models.small_vgg.vgg_small",
    "arguments": {"num_classes": 5, "image_size": 16, "widths": [4, 8]},
}


@pytest.fixture
def saved(tmp_path):
    """A pruned network on disk."""
    torch.manual_seed(0)
    network = build(BUILDER["target"], **BUILDER["arguments"])
    result = thinet.prune(network, [torch.randn(4, *SHAPE)], 0.5, "weight_sum", "none")
    return save(result, tmp_path / "model", Spec(builder=BUILDER))


def given(*shape):
    return torch.randn(*(shape or (3, *SHAPE)), generator=torch.Generator().manual_seed(9))


def wanted(folder, images):
    with torch.no_grad():
        return thinet.load(folder)(images)


def never(*_, **__):
    raise AssertionError("was called")


def test_an_export_is_deployed_as_it_is(saved, monkeypatch, capsys):
    assert main(["export", str(saved), "--openvino"]) == 0
    assert "openvino.xml: outputs equal the original's" in capsys.readouterr().out
    names = {"openvino.xml", "openvino.bin", "openvino.json", "model.safetensors", "spec.json"}
    assert {path.name for path in saved.iterdir()} == names
    monkeypatch.setattr(files, "load", never)
    run = thinet.deploy(saved, threads=1)
    assert 0 <= run.difference < 1e-4
    for batch in (1, 2, 7):
        images = given(batch, *SHAPE)
        torch.testing.assert_close(run(images), wanted(saved, images), rtol=1e-3, atol=1e-5)
    assert run.binary_layers == 0


def test_without_an_export_it_is_converted(saved):
    run = thinet.deploy(saved.parent)  # as a run's folder
    assert run.threads == torch.get_num_threads()
    torch.testing.assert_close(run(given()), wanted(saved, given()), rtol=1e-3, atol=1e-5)
    assert run(given().numpy()).equal(run(given()))
    assert not (saved / "openvino.xml").exists()


def test_an_export_of_other_weights_is_not_used(saved):
    export(saved, "openvino")
    network = thinet.load(saved)
    network.classifier.bias.data += 1
    spec = thinet.artifacts.store.read_spec(saved)
    save(network, saved, spec)
    run = thinet.deploy(saved)
    torch.testing.assert_close(run(given()), network(given()).detach(), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", ["openvino.bin", "openvino.xml", "openvino.json"])
def test_a_damaged_export_is_not_used(name, saved):
    export(saved, "openvino")
    content = bytearray((saved / name).read_bytes())
    content[len(content) // 2] ^= 0xFF
    (saved / name).write_bytes(content)
    torch.testing.assert_close(thinet.deploy(saved)(given()), wanted(saved, given()))
    (saved / name).unlink()
    torch.testing.assert_close(thinet.deploy(saved)(given()), wanted(saved, given()))


def test_an_export_of_another_machine_is_compared_again(saved, monkeypatch):
    export(saved, "openvino")
    record = json.loads((saved / "openvino.json").read_text())
    (saved / "openvino.json").write_text(json.dumps(record | {"checked": ["elsewhere"]}))
    calls = []
    real = files.check
    monkeypatch.setattr(files, "check", lambda *args: calls.append(args) or real(*args))
    torch.testing.assert_close(thinet.deploy(saved)(given()), wanted(saved, given()))
    assert len(calls) == 1
    other = {"checked": ["elsewhere"], "calls": ["features.3"]}
    (saved / "openvino.json").write_text(json.dumps(record | other))
    with pytest.raises(ThinetError, match="does not have the layers"):
        thinet.deploy(saved)


def test_a_graph_that_differs_is_not_written(saved, monkeypatch):
    export(saved, "openvino")
    before = {path.name: path.read_bytes() for path in saved.iterdir()}
    real = conversion._graph

    def moved(network, *args):
        network.classifier.bias = nn.Parameter(network.classifier.bias + 1)
        return real(network, *args)

    monkeypatch.setattr(conversion, "_graph", moved)
    with pytest.raises(ThinetError, match=r"logits differ .*it is not used"):
        export(saved, "openvino")
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before


class Branching(nn.Module):
    """Its code depends on the values of the images, which no conversion can follow."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(12, 2)

    def forward(self, x):
        return self.linear(x.flatten(1)) * (2 if float(x.abs().sum()) > 0 else 1)


class Scaled(nn.Module):
    """A module that says what it is made of, rightly or not."""

    def __init__(self, said=3.0):
        super().__init__()
        self.said = said

    def forward(self, x):
        return x * 3.0

    def lowered(self, x):
        from openvino import opset13

        return opset13.multiply(x, np.float32(self.said))

    def rounding(self, x, near):
        return torch.zeros(())


def test_modules_that_say_what_they_are_made_of():
    shared = Scaled()
    network = nn.Sequential(nn.Conv2d(3, 4, 3), shared, nn.ReLU(), shared, nn.Flatten()).eval()
    made = deployed(network, (3, 6, 6), 1)
    torch.testing.assert_close(made(given(2, 3, 6, 6)), network(given(2, 3, 6, 6)).detach())
    with pytest.raises(ThinetError, match=r"^1 differs in the graph of OpenVINO"):
        deployed(nn.Sequential(nn.Conv2d(3, 4, 3), Scaled(3.01), nn.Flatten()), (3, 6, 6))


@pytest.mark.parametrize("odd", [1, 4, 5])
def test_the_graph_that_is_deployed_gives_the_logits_of_the_one_looked_at(odd, monkeypatch):
    """Rounding may part them now and then; a fault does so for each image."""
    network = nn.Sequential(nn.Conv2d(3, 4, 3), Scaled(), nn.Flatten()).eval()
    calls = []

    def runs(self, images):
        calls.append(len(images))
        with torch.no_grad():
            return network(images) * (1.01 if calls.count(len(images)) <= odd else 1)

    monkeypatch.setattr(Deployed, "__call__", runs)
    if odd == 5:
        with pytest.raises(ThinetError, match=r"differ .* of the same graph when its layers"):
            deployed(network, (3, 6, 6))
    else:
        assert deployed(network, (3, 6, 6)).difference < 1e-5


def test_a_fault_at_one_place_of_a_batch_is_seen(monkeypatch):
    network = nn.Sequential(nn.Conv2d(3, 4, 3), Scaled(), nn.Flatten()).eval()

    @torch.no_grad()
    def runs(self, images):
        made = network(images)
        made[1:] *= 1.01
        return made

    monkeypatch.setattr(Deployed, "__call__", runs)
    with pytest.raises(ThinetError, match=r"differ .* of the same graph when its layers"):
        deployed(network, (3, 6, 6))


def test_each_call_has_its_counterpart():
    network, images = nn.Sequential(Scaled(), nn.Flatten()).eval(), given(2, 3, 4, 4)
    call = checking.Call("0", images, images * 3)
    assert checking.forced(network, images, [call]).equal(images.flatten(1) * 3)
    for calls in ([], [call, call]):
        with pytest.raises(ThinetError, match=r"calls .*in the graph of OpenVINO"):
            checking.forced(network, images, calls)


def test_real_images_are_looked_at_too():
    class Odd(Scaled):
        def forward(self, x):
            return x * (3.5 if float(x.max()) > 1000 else 3.0)

    network = nn.Sequential(Odd(), nn.Flatten())
    deployed(network, (3, 2, 2), images=torch.ones(5, 3, 2, 2))
    with pytest.raises(ThinetError, match="0 differs"):
        deployed(network, (3, 2, 2), images=torch.full((5, 3, 2, 2), 1e4))


def test_training_goes_on_without_changing_what_is_deployed():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten()).eval()
    made = deployed(network, (3, 6, 6), 1)
    before = made(given(2, 3, 6, 6))
    network[0].weight.data.zero_()
    assert made(given(2, 3, 6, 6)).equal(before)
    assert made(given(5, 3, 6, 6)).abs().max() > 0.1  # compiled after the change


def test_a_network_that_cannot_be_converted():
    with pytest.raises(ThinetError, match="logits differ"):
        deployed(Branching(), (3, 2, 2))
    with pytest.raises(ThinetError, match="does not run on images of the shape"):
        deployed(nn.Conv2d(3, 4, 3), (5, 6, 6))


@pytest.mark.parametrize(
    ("images", "match"),
    [
        (torch.zeros(1, 3, 8, 8), r"shape \(1, 3, 8, 8\) do not fit: pass \(N, 3, 16, 16\)"),
        (torch.zeros(3, 16, 16), "do not fit"),
        (torch.zeros(0, *SHAPE), "do not fit"),
        (torch.zeros(1, *SHAPE).double(), "float64 are not understood"),
        (torch.zeros(1, *SHAPE).bfloat16(), "are not understood: pass float32"),
        (np.zeros((1, *SHAPE), np.uint8), "uint8 are not understood"),
        ([[1.0]], "list are not understood"),
    ],
    ids=lambda value: "" if isinstance(value, str) else type(value).__name__,
)
def test_images_that_do_not_fit(images, match):
    made = Deployed(None, SHAPE, 1)
    with pytest.raises(ThinetError, match=match):
        made(images)


@pytest.mark.parametrize("threads", [0, -1, 1.5, "2", True, 10**6])
def test_threads_that_are_none(threads, saved):
    with pytest.raises(ThinetError, match="threads="):
        thinet.deploy(saved, threads)


def test_other_types_than_float32(saved):
    network = thinet.load(saved)
    with pytest.raises(ThinetError, match=r"float16: a network is deployed from float32"):
        deployed(network.half(), SHAPE)


def test_a_folder_without_the_size_of_its_images(tmp_path):
    save(nn.Conv2d(3, 4, 3), tmp_path)
    with pytest.raises(ThinetError, match="how large its images are"):
        thinet.deploy(tmp_path)


def test_the_package_is_missing(saved, monkeypatch):
    monkeypatch.delitem(sys.modules, "openvino")
    monkeypatch.setattr(package.importlib.util, "find_spec", lambda name: None)
    for use in (lambda: thinet.deploy(saved), lambda: export(saved, "openvino")):
        with pytest.raises(ThinetError, match=r"type pip install 'thinet\[openvino\]'"):
            use()


def test_the_package_is_broken(saved, tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "openvino"]:
        monkeypatch.delitem(sys.modules, name)
    (tmp_path / "openvino").mkdir()
    (tmp_path / "openvino" / "__init__.py").write_text("raise ImportError('libtbb.so.12')")
    monkeypatch.syspath_prepend(tmp_path)
    for use in (lambda: thinet.deploy(saved), lambda: export(saved, "openvino")):
        with pytest.raises(ThinetError, match=r"cannot be imported \(.*libtbb.*type pip install"):
            use()


def test_few_compiled_sizes_are_kept(saved):
    run = thinet.deploy(saved, 1)
    for batch in range(1, 8):
        assert len(run(given(batch, *SHAPE))) == batch
    assert list(run._ready) == [4, 5, 6, 7]
    assert run.latency_ms(batch=2, runs=3) > 0


ALONE = """
import socket, sys
def refuse(*args): raise SystemExit("tells the network")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
from thinet.artifacts.export import export
export(sys.argv[1], "openvino")
assert "openvino_telemetry" not in sys.modules
"""


def test_nobody_is_told_and_nothing_is_written_elsewhere(saved, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    words = [sys.executable, "-W", "ignore", "-c", ALONE, str(saved)]
    where = {"HOME": str(home), "PATH": "", "PYTHONPATH": ":".join(sys.path), "CI": ""}
    done = subprocess.run(words, env=where, cwd=home, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert list(home.rglob("*")) == []


def test_there_is_one_runtime_in_a_process():
    """Unloading the last one leaves handlers of forks behind: the next fork crashes."""
    from thinet.artifacts.openvino import package

    assert package.core() is package.core()
    root = Path(package.__file__).parents[2]
    made = [path.name for path in root.rglob("*.py") if ".Core()" in path.read_text()]
    assert made == ["package.py"]
