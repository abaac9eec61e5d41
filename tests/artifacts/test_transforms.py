"""Networks whose modules were replaced: saved with what was done to them, or refused by name."""

from __future__ import annotations

import json
import sys

import pytest
import torch
from torch import nn

import thinet
from thinet.artifacts import transforms
from thinet.artifacts.inherit import narrow_
from thinet.artifacts.spec import Builder, Spec, Transform, read_spec
from thinet.base.errors import ThinetError
from thinet.models import build

TARGET, ARGUMENTS = (
    "thinet.models.small_vgg.vgg_small",
    {"widths": [4, 8], "num_classes": 3, "image_size": 16},
)
BUILDER = Builder(TARGET, ARGUMENTS)
SHAPE = (3, 16, 16)
TOYS = '''
import torch
from torch import nn


class Learnable(nn.Module):
    def __init__(self, slope):
        super().__init__()
        self.slope, self.gain = nn.Parameter(torch.full((1,), slope)), 1 + slope

    def forward(self, x):
        return torch.where(x > 0, self.gain * x, self.slope * x)


class SignConv2d(nn.Conv2d):
    """The tensors of a convolution, another sum."""

    def forward(self, x):
        return self._conv_forward(x, self.weight.sign(), self.bias)


class ScaledConv2d(SignConv2d):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.register_buffer("alpha", torch.ones(self.out_channels, 1, 1))
        self.share = 1 / self.out_channels  # in no file: of the width that it was made with

    def forward(self, x):
        return super().forward(x) * self.alpha * self.share


def _replace(network, kind, make):
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is kind:
                setattr(parent, name, make(child))
    return network


def learnable(network: nn.Module, slope: float = 0.25) -> nn.Module:
    return _replace(network, nn.ReLU, lambda old: Learnable(slope))


def _conv(kind):
    def make(old):
        new = kind(old.in_channels, old.out_channels, old.kernel_size, old.stride, old.padding,
                   bias=old.bias is not None)
        new.weight, new.bias = old.weight, old.bias
        return new
    return make


def signed(network: nn.Module) -> nn.Module:
    return _replace(network, nn.Conv2d, _conv(SignConv2d))


def scaled(network: nn.Module) -> nn.Module:
    assert {m.weight.device.type for m in network.modules() if type(m) is nn.Conv2d} <= set(WHERE)
    return _replace(network, nn.Conv2d, _conv(ScaledConv2d))


WHERE = ["cpu", "meta"]


def strided(network: nn.Module) -> nn.Module:
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.padding_mode, module._reversed_padding_repeated_twice = "circular", [1] * 4
    return network


def broken(network: nn.Module) -> nn.Module:
    return network.nothing


class Ready(nn.Conv2d):
    ready = False

    def forward(self, x):
        if not self.ready:
            raise RuntimeError("not ready")
        return super().forward(x)


def ready(network: nn.Module) -> nn.Module:
    return _replace(network, nn.Conv2d, _conv(Ready))


def forgetful(network: nn.Module) -> nn.Module:
    signed(network)


def endless(network: nn.Module) -> nn.Module:
    while True:
        network.add_module("more", nn.Identity())


def undeclared(network):
    return network


def number(network: nn.Module) -> int:
    return 3


_private = signed
'''


@pytest.fixture
def toys(tmp_path, monkeypatch):
    """The toys as a package of the user's own, trusted."""
    (tmp_path / "toytransforms.py").write_text(TOYS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("THINET_TRUST", "toytransforms")
    yield __import__("toytransforms")
    sys.modules.pop("toytransforms", None)


@pytest.fixture
def ours(toys, monkeypatch):
    """The toys as if they were thinet's own: applied on the meta device."""
    monkeypatch.delenv("THINET_TRUST")
    monkeypatch.setattr(transforms, "TRANSFORMS", ("toytransforms",))
    toys.WHERE[:] = ["meta"]
    return toys


def slim():
    torch.manual_seed(0)
    network = build(TARGET, **ARGUMENTS).eval()
    images = torch.randn(4, *SHAPE)
    return thinet.prune(network, [images], criterion="weight_sum", reconstruction="none")


def spec_of(*names, result=None, **fields):
    keep = {} if result is None else {cut.layer: cut.kept for cut in result.layers}
    steps = tuple(Transform(f"toytransforms.{name}") for name in names)
    return Spec(BUILDER, keep, steps, input_shape=SHAPE, **fields)


def trained(network):
    """Other values in every tensor, as after training."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for tensor in [*network.parameters(), *network.buffers()]:
            if tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.1)
        for name, tensor in network.named_parameters():
            if name.endswith("weight"):
                tensor.sub_(0.6)
    return network.eval()


@torch.no_grad()
def outputs(network):
    return network(torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(2)))


@pytest.mark.parametrize("names", [("learnable",), ("scaled",), ("learnable", "scaled")])
@pytest.mark.parametrize("owner", ["toys", "ours"])
def test_a_pruned_and_transformed_network_comes_back(names, owner, request, tmp_path):
    toys = request.getfixturevalue(owner)
    where, toys.WHERE[:] = list(toys.WHERE), ["cpu", "meta"]
    result = slim()
    network = result.model
    for name in names:
        network = getattr(toys, name)(network)
    trained(network)
    toys.WHERE[:] = where
    folder = thinet.save(network, tmp_path / "net", spec_of(*names, result=result))
    again = thinet.load(folder)
    assert torch.equal(outputs(again), outputs(network))
    assert [type(one) for one in again.modules()] == [type(one) for one in network.modules()]
    assert again.features[0].out_channels == 2
    assert [one.target for one in read_spec(folder).transforms] == [
        f"toytransforms.{name}" for name in names
    ]
    toys.WHERE[:] = ["cpu"]  # the user's own network has its tensors
    full = build(TARGET, **ARGUMENTS)
    assert torch.equal(outputs(thinet.load(folder, full)), outputs(network))
    assert type(full.features[0]) is nn.Conv2d, "the network that was passed is left as it was"


def test_transforms_follow_in_order_and_with_their_arguments(toys, tmp_path):
    network = build(TARGET, **ARGUMENTS)
    toys.learnable(network, 0.5)
    toys.learnable(network, 0.1)  # finds none any more
    steps = (
        Transform("toytransforms.learnable", {"slope": 0.5}),
        Transform("toytransforms.learnable", {"slope": 0.1}),
    )
    spec = Spec(BUILDER, transforms=steps, input_shape=SHAPE)
    folder = thinet.save(network.eval(), tmp_path, spec)
    assert read_spec(folder).transforms == steps
    assert torch.equal(outputs(thinet.load(folder)), outputs(network))


@pytest.mark.parametrize(
    ("done", "stated", "words"),
    [
        (["scaled"], [], "features.0 is a ScaledConv2d, and the spec builds a Conv2d there: say"),
        (["signed"], [], "features.0 is a SignConv2d, and the spec builds a Conv2d there: say"),
        (["learnable"], [], "features.2 is a Learnable, and the spec builds a ReLU there: say"),
        ([], ["scaled"], "features.0 is a Conv2d, and the spec builds a ScaledConv2d there: say"),
        (["scaled", "learnable"], ["scaled"], "features.2 is a Learnable, and the spec builds a"),
        (["strided"], [], "builds a network that computes something else with the weights"),
        ([], ["broken"], "broken cannot be applied to this network"),
        ([], ["forgetful"], "forgetful returned no network"),
        ([], ["endless"], "far more layers"),
        ([], ["undeclared"], "does not say that it returns a network"),
    ],
)
def test_what_a_load_would_not_bring_back_is_refused(done, stated, words, toys, tmp_path):
    network = build(TARGET, **ARGUMENTS).eval()
    for name in done:
        network = getattr(toys, name)(network)
    with pytest.raises(ThinetError, match=words) as caught:
        thinet.save(network, tmp_path / "net", spec_of(*stated))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "net").exists()


def test_what_runs_here_has_to_run_after_a_load(toys, tmp_path):
    network = toys.ready(build(TARGET, **ARGUMENTS)).eval()
    thinet.save(network, tmp_path / "neither", spec_of("ready"))
    for module in network.modules():
        module.ready = True
    with pytest.raises(ThinetError, match="computes something else"):
        thinet.save(network, tmp_path / "net", spec_of("ready"))


def test_a_module_too_many_or_too_few_is_named(tmp_path):
    network = build(TARGET, **ARGUMENTS).eval()
    network.extra = nn.Linear(2, 2)
    with pytest.raises(ThinetError, match="extra is a Linear, and the spec builds nothing there"):
        thinet.save(network, tmp_path / "net", spec_of())
    del network.extra
    del network.features[1]
    with pytest.raises(ThinetError, match=r"features\.\d is a \w+, and the spec builds a \w+ ther"):
        thinet.save(network, tmp_path / "net", spec_of())


def test_tensors_of_another_shape_are_named(tmp_path):
    other = build(TARGET, **{**ARGUMENTS, "widths": [6, 8]}).eval()
    words = r"features\.0\.weight is float32 of shape \(6, 3, 3, 3\), and the spec builds float32"
    with pytest.raises(ThinetError, match=words):
        thinet.save(other, tmp_path / "net", spec_of())


def test_a_builder_that_load_would_refuse_is_refused_by_save(tmp_path):
    network = build(TARGET, **ARGUMENTS)
    with pytest.raises(ThinetError, match="does not name a network builder"):
        thinet.save(network, tmp_path / "net", Spec(Builder("os.system", {})))
    assert not (tmp_path / "net").exists()


def test_without_a_builder_the_network_to_load_into_must_have_the_same_modules(toys, tmp_path):
    network = trained(toys.signed(build(TARGET, **ARGUMENTS)))
    folder = thinet.save(network, tmp_path)
    words = r"features\.0 was a SignConv2d when .* was saved, and is a Conv2d here: pass a network"
    with pytest.raises(ThinetError, match=words):
        thinet.load(folder, build(TARGET, **ARGUMENTS))
    again = thinet.load(folder, toys.signed(build(TARGET, **ARGUMENTS)))
    assert torch.equal(outputs(again), outputs(network))


def test_batchnorm_that_was_synchronised_is_batchnorm(tmp_path):
    network = build(TARGET, **ARGUMENTS)
    folder = thinet.save(
        nn.SyncBatchNorm.convert_sync_batchnorm(network).eval(), tmp_path, spec_of()
    )
    assert type(thinet.load(folder).features[1]) is nn.BatchNorm2d


def test_a_run_that_begins_with_it_gets_its_transforms(toys, tmp_path):
    result = slim()
    network = trained(toys.scaled(result.model))
    thinet.save(network, tmp_path, spec_of("scaled", result=result))
    made = narrow_(build(TARGET, **{**ARGUMENTS, "num_classes": 7}), tmp_path, SHAPE)
    assert made.features[0].alpha.shape == (2, 1, 1)


def test_lineage_is_kept(tmp_path):
    network = build(TARGET, **ARGUMENTS)
    folder = thinet.save(network, tmp_path, spec_of(lineage=("teacher-1a2b", "pruned-3c4d")))
    assert read_spec(folder).lineage == ("teacher-1a2b", "pruned-3c4d")


# -- files of strangers


def change(folder, **changes):
    path = folder / "spec.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.fixture
def saved(tmp_path):
    return thinet.save(build(TARGET, **ARGUMENTS), tmp_path / "net", spec_of())


@pytest.mark.parametrize(
    ("target", "arguments"),
    [
        ("os.system", {}), ("builtins.eval", {}), ("thinet.artifacts.store.save", {"folder": "x"}),
        ("thinet.save", {"folder": "x"}), ("thinet.surgery.slim.remove_", {}),
        ("toytransforms", {}),
        ("thinet.quantization.binarize.torch.load", {}), ("thinet.quantization.nothing.x", {}),
        ("toytransforms.signed", {}), ("thinet.models.small_vgg.vgg_small", {}),
    ],
)  # fmt: skip
def test_a_strangers_transform_is_refused(target, arguments, saved, toys, monkeypatch):
    monkeypatch.delenv("THINET_TRUST")
    sys.modules.pop("toytransforms", None)
    change(saved, transforms=[{"target": target, "arguments": arguments}])
    for load in (
        lambda: thinet.load(saved),
        lambda: thinet.load(saved, build(TARGET, **ARGUMENTS)),
    ):
        with pytest.raises(ThinetError, match="does not name a transform below thinet") as caught:
            load()
        assert "\n" not in str(caught.value)
    assert "toytransforms" not in sys.modules, "an import runs a module"


@pytest.mark.parametrize(
    ("step", "words"),
    [
        ({"target": "toytransforms.number"}, "does not name a transform"),
        ({"target": "toytransforms.Learnable"}, "does not name a transform"),
        ({"target": "toytransforms._private"}, "does not name a transform"),
        ({"target": "toytransforms.signed", "arguments": {"x": 1}}, "cannot be called with"),
        ({"target": "toytransforms.signed", "arguments": {"network": 1}}, "cannot be called with"),
        ({"target": "toytransforms.learnable", "arguments": {"slope": 10**9}}, "nothing a network"),
        ({"target": "toytransforms.learnable", "arguments": {"slope": "x"}}, "cannot be applied"),
        ({"target": "toytransforms.endless"}, "far more layers"),
        ({"target": "toytransforms.scaled"}, "of another architecture"),
    ],
)
def test_a_transform_is_called_only_as_one_is(step, words, saved, ours):
    change(saved, transforms=[step])
    with pytest.raises(ThinetError, match=words) as caught:
        thinet.load(saved)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"transforms": "ab"}, {"transforms": [1]}, {"transforms": [{"arguments": {}}]},
        {"transforms": [{"target": "a.b", "more": 1}]}, {"transforms": [{"target": 3}]},
        {"transforms": [{"target": "a.b"}] * 65}, {"transforms": {"target": "a.b"}},
        {"transforms": [{"target": "a.b"}], "keep": {"features.0": [0]}, "input_shape": []},
        {"transforms": [{"target": "a.b"}], "input_shape": [3, 2**20, 2**20]},
        {"lineage": "ab"}, {"lineage": [1]}, {"kinds": []}, {"kinds": {"a": 1}},
    ],
    ids=lambda changes: str(changes)[:60],
)  # fmt: skip
def test_values_that_a_spec_cannot_have(changes, saved):
    change(saved, **changes)
    with pytest.raises(ThinetError, match="is not a thinet spec"):
        read_spec(saved)


def test_kept_filters_that_the_network_does_not_have(saved, ours):
    change(saved, transforms=[{"target": "toytransforms.scaled"}], keep={"features.0": [0, 99]})
    with pytest.raises(ThinetError, match="another architecture"):
        thinet.load(saved)
