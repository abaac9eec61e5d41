"""method=binarize: what it leaves, repeats and resumes; two processes; what makes no sense."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import thinet
from thinet.artifacts.store import read_spec
from thinet.artifacts.tensors import read_state
from thinet.base.errors import DivergedError, ThinetError
from thinet.engine.engine import Engine
from thinet.engine.module import Learner
from thinet.quantization.layers import binary_layers
from thinet.quantization.packed import PackedConv2d, packed_layers
from thinet.quantization.training import Bounds
from thinet.report.sections.quantization import QuantizationDetails
from thinet.run.result import MODEL

WIDE = "model.build.widths=[16,16]"
BINARIZE = ("method=binarize", WIDE, "binary_training.activations.epochs=1",
            "binary_training.weights.epochs=1")  # fmt: skip


def weights_of(folder):
    return (folder / "model.safetensors").read_bytes()


def test_baseline_binary_and_packed(make_run):
    run = make_run(*BINARIZE)
    outcome = run.run()
    details = outcome.details["quantization"]
    assert isinstance(details, QuantizationDetails)
    assert (details.quantizer, details.order, details.scale) == ("horq2", 2, "sample")
    binary = [one.layer for one in details.layers if one.binary]
    assert [one.layer for one in details.layers if not one.binary] == ["features.0", "classifier"]
    loaded = thinet.load(run.folder / MODEL)
    assert list(packed_layers(loaded)) == binary
    assert isinstance(loaded.get_submodule(binary[0]), PackedConv2d)
    state = read_state(run.folder / MODEL / "model.safetensors")
    assert not {f"{layer}.weight" for layer in binary} & state.keys(), "no latent weights"
    assert details.bytes_packed == len(weights_of(run.folder / MODEL))
    assert details.bytes_packed < details.bytes_full
    assert run.engine.evaluate(loaded, "test").top1 == outcome.model.top1
    assert outcome.model.binary_ops == sum(one.binary_ops for one in details.layers)
    assert outcome.model.flops == sum(one.flops for one in details.layers)
    assert outcome.reference.binary_ops == 0 < outcome.model.binary_ops
    assert outcome.model.bits < outcome.reference.bits / 2
    spec = read_spec(run.folder / MODEL)
    assert spec.metrics == outcome.model.figures()
    assert [one.target.rpartition(".")[2] for one in spec.transforms] == ["binarized", "packed"]
    names = ["PyTorch, full precision", "PyTorch, from the bits", "OpenVINO, full precision",
             "OpenVINO, 1 bit"]  # fmt: skip
    assert [one.name for one in details.speeds] == names
    assert details.deployed_difference < 1e-5


def no_openvino(*_):
    raise ThinetError("openvino is not installed: type pip install 'thinet[openvino]'.")


def test_without_openvino_it_says_so(make_run, monkeypatch):
    said = []
    monkeypatch.setattr("thinet.quantization.comparison.say", said.append)
    monkeypatch.setattr("thinet.quantization.comparison.deployed", no_openvino)
    details = make_run(*BINARIZE).run().details["quantization"]
    assert len(details.speeds) == 2
    assert details.deployed_difference is None
    assert details.why_not_deployed in said[-1]
    assert "pip install 'thinet[openvino]'" in said[-1]


@pytest.mark.parametrize("arguments", [
    ["quantizer=xnor", "binary_training=one_step", "binary_training.weights.epochs=1"],
    ["quantizer=horq3", "quantizer.scale=patch"],
    ["quantizer.scale=constant", "distill=cckd"],
    ["distill=kd", "sampler=class_uniform", "layers=[features.3,features.7]"],
], ids=str)  # fmt: skip
def test_every_way_to_train(arguments, make_run):
    run = make_run(*BINARIZE, *arguments)
    outcome = run.run()
    assert outcome.model.top1 is not None
    layers = packed_layers(thinet.load(run.folder / MODEL))
    if arguments[-1].startswith("layers"):
        assert list(layers) == ["features.3", "features.7"]
    first = next(iter(layers.values()))
    order = outcome.details["quantization"].order
    assert first.quantizer.order == order
    assert ("distillation" in outcome.details) == any("distill=" in one for one in arguments)


def test_steps_train_what_they_say(make_run, monkeypatch):
    seen = []
    step = Learner.training_step

    def watch(self, batch, index):
        layers = binary_layers(self.network).values()
        seen.append({layer.binary_weights for layer in layers})
        if layers:
            own = [layer.norm for layer in layers if layer.norm is not None]
            norms = [*own, self.network.get_submodule("features.1")]  # a ReLU behind it is gone
            assert all(norm.weight.min() >= 1.5 for norm in norms)
        assert all(
            layer.weight.detach().abs().max() <= 0.0501 or seen[-1] == {False} for layer in layers
        )
        return step(self, batch, index)

    monkeypatch.setattr(Learner, "training_step", watch)
    make_run(*BINARIZE, "binary_training.weight_bound=0.05",
             "binary_training.gamma_floor=1.5").run()  # fmt: skip
    stages = [one for one in seen if one]  # the baseline has no binary layers
    assert stages == sorted(stages, key=lambda one: one == {True})
    assert {False} in stages
    assert {True} in stages


def test_bounds_are_kept():
    layer = thinet.binarize(
        nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU(),
                      nn.Flatten(), nn.Linear(16 * 16, 10)),
        images=torch.randn(4, 3, 8, 8),
    )  # fmt: skip
    (binary,) = binary_layers(layer).values()
    with torch.no_grad():
        binary.weight.mul_(100)
        binary.norm.weight[0] = -1
    Bounds(None, None).keep_(layer)
    assert binary.weight.abs().max() > 1
    Bounds(1.0, 0.01).keep_(layer)
    assert binary.weight.abs().max() == 1
    assert binary.norm.weight.min().item() == pytest.approx(0.01)


@pytest.mark.parametrize("after", [1, 5, 8])  # of 12 batches
def test_killed_it_ends_in_the_same_bits(after, make_run, tmp_path, monkeypatch):
    monkeypatch.setattr("thinet.quantization.comparison.deployed", no_openvino)
    fast = (f"paths.cache={tmp_path / 'cache'}", "trainer.checkpoint_minutes=0", "distill=kd",
            "binary_training.weight_bound=0.1", "binary_training.activations.epochs=2",
            "binary_training.weights.epochs=3")  # fmt: skip

    class KilledError(BaseException):
        pass

    def record(outcome):
        return outcome.model.top1, outcome.model.val_top1, outcome.weights_by_process

    whole = make_run(*BINARIZE, *fast, folder=tmp_path / "whole")
    wanted = record(whole.run())
    calls, step = [], Learner.training_step

    def die(self, batch, index):
        calls.append(index)
        if len(calls) == after + 1:
            raise KilledError
        return step(self, batch, index)

    monkeypatch.setattr(Learner, "training_step", die)
    with pytest.raises(KilledError):
        make_run(*BINARIZE, *fast, folder=tmp_path / "killed").run()
    monkeypatch.setattr(Learner, "training_step", step)
    torch.manual_seed(99)
    assert record(make_run(*BINARIZE, *fast, folder=tmp_path / "killed").run()) == wanted
    assert weights_of(tmp_path / "killed" / MODEL) == weights_of(tmp_path / "whole" / MODEL)


def test_a_run_killed_after_its_last_step_is_finished(make_run, monkeypatch):
    monkeypatch.setattr(
        "thinet.quantization.method.packed_equal",
        lambda *_: (_ for _ in ()).throw(KeyboardInterrupt),
    )
    with pytest.raises(KeyboardInterrupt):
        make_run(*BINARIZE, "distill=kd").run()
    monkeypatch.undo()
    assert make_run(*BINARIZE, "distill=kd").run().model.top1 is not None


@pytest.mark.parametrize("done", [0, 1])
def test_what_diverges_leaves_the_network_before_it(done, make_run, monkeypatch):
    train = Engine.train

    def diverge(self, objective, key, *rest):
        if key == ("binary activations", "binary weights")[done]:
            raise DivergedError("training diverged.")
        return train(self, objective, key, *rest)

    monkeypatch.setattr(Engine, "train", diverge)
    run = make_run(*BINARIZE)
    with pytest.raises(DivergedError, match=f"diverged; .* after {done} of 2 steps"):
        run.run()
    assert bool(binary_layers(thinet.load(run.folder / "last_good"))) == bool(done)


def test_a_pruned_network_becomes_binary(make_run, tmp_path):
    pruned = make_run("model.build.widths=[16,32]", "ratio=0.5", "round_to=8",
                      "layers=inner", folder=tmp_path / "pruned")  # fmt: skip
    pruned.run()
    run = make_run(
        "method=binarize", "model.build.widths=[16,32]", *BINARIZE[2:],
        f"model.weights={pruned.folder}", folder=tmp_path / "binary",
    )  # fmt: skip
    outcome = run.run()
    spec = read_spec(run.folder / MODEL)
    assert spec.keep == read_spec(pruned.folder / MODEL).keep
    assert spec.lineage == (pruned.setup.name, run.setup.name)
    loaded = thinet.load(run.folder / MODEL)
    assert run.engine.evaluate(loaded, "test").top1 == outcome.model.top1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["quantizer.order=0"], ["order=0", "1 to 8", "quantizer.order=2"]),
        (["quantizer.order=9"], ["order=9", "1 to 8"]),
        (
            ["quantizer.scale=maps"],
            ["scale=maps", "constant", "quantizer.scale=sample"],
        ),
        (["quantizer.clip=0"], ["clip=0", "quantizer.clip=1.0"]),
        (["model.build.widths=[4,8]"], ["narrow"]),
        (["layers=[fetures.3]"], ["fetures.3"]),
        (["binary_training.weights.epochs=0"], ["binary_training.weights.epochs=8"]),
        (["binary_training.weights.lr=-1"], ["binary_training.weights.lr"]),
        (["binary_training.weight_bound=0"], ["weight_bound=0", "null"]),
        (["binary_training.gamma_floor=-1"], ["gamma_floor=-1", "null"]),
        (["distill=kd", "distill.alpha=2"], ["alpha=2"]),
    ],
    ids=str,
)
def test_what_makes_no_sense_is_one_sentence(arguments, words, make_run):
    with pytest.raises(ThinetError) as found:
        make_run(*BINARIZE, *arguments)
    for word in words:
        assert word in str(found.value), found.value
