"""Arguments of the Python API: what makes no sense is one sentence, before any work."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import thinet
from thinet.artifacts.export import export
from thinet.artifacts.store import Spec
from thinet.base.errors import ThinetError
from thinet.pruning.checks import find_problems
from thinet.pruning.criteria import ThiNet, ThiNetRefit
from thinet.pruning.reconstruction import Refit, Scale
from thinet.pruning.statistics import Sampling
from thinet.widths.target import Target, Widths

NAN, INF = math.nan, math.inf
IMAGES = torch.randn(6, 3, 8, 8)


class Untouched:
    """Batches that nobody may ask for before everything else is known to make sense."""

    def __iter__(self):
        raise AssertionError("work has begun")


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 5, 3), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 4),
    ).eval()  # fmt: skip


def refused(call, *args, match=None, **kwargs):
    with pytest.raises(ThinetError, match=match) as caught:
        call(*args, **kwargs)
    text = str(caught.value)
    assert "\n" not in text
    assert text.endswith(".")
    assert len(text) < 600


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("batch_size", [-1, 0, 1.5, 2.0, True, NAN, INF, "64", None, [64], 10**3 + 0.5]),
        ("round_to", [-1, 0, 1.5, 2.0, True, NAN, INF, "8", None, [8]]),
        ("ratio", [0, -0.5, 1.5, NAN, INF, -INF, True, None, "0.5", "half", [0.5], b"1", 10**400]),
        ("ratio", [{"0": NAN}, {"0": "x"}, {"0": None}, {0: 0.5}, {None: 0.5}, {"0": {}}]),
        ("ratio", [torch.tensor(0.5), Fraction(3, 2)]),
        ("layers", [None, 3, [], (), "", [""], ["0", 3], [None], {"0": 1}, b"all", True, 0.5]),
        ("target", ["", 0, False, 0.5, "flops", "flops:nan", "flops:inf", "flops:0", "flops:1",
                    "flops:-1", "x:0.5", ["flops:0.5"], b"flops:0.5", "flops:" + "9" * 5000]),
        ("allocation", ["", "best", None, True, 3, ["uniform"], "error"]),
        ("recalibrate_bn", ["", "yes", None, 1, 0, 0.0, ["after"]]),
        ("sampling", [0, False, "", 10, {"locations": 3}, Sampling]),
        ("criterion", ["", "no", "living", "criterion", ".thinet", "thinet.thinet", "../thinet",
                       None, 0, ThiNet, Scale(), ["thinet"], nn.ReLU()]),
        ("reconstruction", ["", "no", "thinet", None, 0, False, Scale, ThiNet(), ["scale"]]),
    ],
)  # fmt: skip
def test_prune_refuses_it_before_it_looks_at_an_image(name, values):
    net = network()
    for value in values:
        # a wrong pair is blamed on one of the two
        refused(thinet.prune, net, Untouched(), **{name: value})


@pytest.mark.parametrize("model", [None, "net", nn.Conv2d, 3, [nn.ReLU()], nn.ReLU().state_dict()])
def test_prune_wants_a_network(model):
    refused(thinet.prune, model, Untouched(), match="it has to be a torch.nn.Module")


@pytest.mark.parametrize(
    "batches", [None, 3, nn.ReLU(), IMAGES, [None], ["x"], [[]], [], IMAGES[0]]
)
def test_prune_wants_batches_of_images(batches):
    refused(thinet.prune, network(), batches, match="batches")


@pytest.mark.parametrize(
    "settings",
    [{"batch_size": np.int64(4)}, {"round_to": np.int32(2)}, {"ratio": np.float64(0.5)},
     {"ratio": np.float32(0.5)}, {"ratio": Fraction(1, 2)}, {"ratio": 0.5, "layers": {"0", "2"}},
     {"layers": ("0", "2")}, {"ratio": {"*": np.float32(0.5)}}, {"sampling": None},
     {"sampling": Sampling(seed=np.int64(0))}],
)  # fmt: skip
def test_numbers_of_other_types_mean_the_same(settings):
    kept = [record.kept for record in thinet.prune(network(), [IMAGES], round_to=1).layers]
    if settings.get("round_to"):
        kept = [r.kept for r in thinet.prune(network(), [IMAGES], round_to=2).layers]
    found = [record.kept for record in thinet.prune(network(), [IMAGES], **settings).layers]
    assert found == kept


def test_a_target_may_be_given_as_an_object():
    fraction = 0.512345678912
    found = thinet.prune(network(), [IMAGES], target=Target("params", fraction))
    assert found.after.params <= fraction * found.before.params


@pytest.mark.parametrize("wrong", [NAN, INF, -1e-9, True, None, "1e-4", [1e-4], 10**400])
@pytest.mark.parametrize("kind", [ThiNetRefit, Refit, Scale])
def test_ridges(kind, wrong):
    refused(kind, ridge=wrong, match=r"ridge=.* is not a number of at least 0")


@pytest.mark.parametrize("ridge", [0, 0.0, 1e-4, 5, 1e30, 1e300, np.float32(0.5)])
@pytest.mark.parametrize("criterion", ["thinet", "thinet_refit"])
@pytest.mark.parametrize("kind", [Refit, Scale])
def test_however_strong_a_ridge_is_it_ends(kind, criterion, ridge):
    rule = ThiNetRefit(ridge) if criterion == "thinet_refit" else criterion
    slim = thinet.prune(network(), [IMAGES], criterion=rule, reconstruction=kind(ridge=ridge)).model
    assert slim(IMAGES).isfinite().all()


@pytest.mark.parametrize("kind", [ThiNetRefit, Refit])
def test_intercepts(kind):
    for wrong in (None, 0, 1, "no", "true", NAN):
        refused(kind, intercept=wrong, match="intercept=.* is neither true nor false")


def test_targets_of_a_refit():
    for wrong in (None, "", "both", ["original"], 1):
        refused(Refit, target=wrong, match="choose current or original")


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("locations", [0, -1, 1.5, True, NAN, INF, "10", None]),
        ("positions", [0, -1, 1.5, True, NAN, INF, "10"]),
        ("rows_per_channel", [-1, NAN, INF, -INF, True, "5", None, [5], 10**400]),
        ("exact", [0, 1, "true", None, NAN]),
        ("seed", [-1, 0.5, True, NAN, "0", None]),
    ],
)
def test_sampling(name, values):
    for value in values:
        refused(Sampling, **{name: value}, match=f"calibration.{name}=")


def test_targets_and_widths_made_by_hand():
    for kind, fraction in itertools.product(
        ("flops", "x", None), (NAN, INF, 0, 1, -1, "0.5", True, None)
    ):
        refused(Target, kind, fraction, match="target=")
    refused(Target, "x", 0.5, match="target=x:0.5 is not one of flops")
    refused(Widths, "flops:0.5", match="target=")


@pytest.mark.parametrize(
    "shape",
    [None, 3, "3", "abc", (), [], (3, 0, 8), (3, -8, 8), (3, 8.0, 8), (True, 8, 8), (3, NAN, 8),
     (1, 8, 8), (3, 8), {3, 8}],
)  # fmt: skip
def test_cost_wants_the_shape_of_an_image(shape):
    refused(thinet.cost, network(), shape, match="input_shape")


def test_cost_wants_a_network():
    for wrong in (None, nn.Conv2d, "net"):
        refused(thinet.cost, wrong, (3, 8, 8), match="it has to be a torch.nn.Module")
    assert thinet.cost(nn.ReLU(), (3, 8, 8)).flops == 0  # nothing to count is no error


@pytest.mark.parametrize("wrong", [None, "", 3, b"x", NAN, ["x"], "a\0b", {}])
def test_folders(wrong, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(thinet.save, network(), wrong, match="is not the path of a folder")
    refused(thinet.load, wrong, match="is not the path of a folder")
    refused(export, wrong, "onnx", match="is not the path of a folder")
    assert not list(Path.cwd().iterdir())


def test_a_file_is_no_folder(tmp_path):
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"mine")
    for call in (lambda: thinet.save(network(), file), lambda: thinet.load(file)):
        refused(call, match="is a file")
    assert file.read_bytes() == b"mine"


def test_save_and_load_want_networks(tmp_path):
    for wrong in (None, "net", nn.Conv2d, {}, IMAGES):
        refused(thinet.save, wrong, tmp_path / "a", match="it has to be a torch.nn.Module")
    thinet.save(network(), tmp_path / "b")
    for wrong in ("net", nn.Conv2d, {}, 0, False):
        refused(thinet.load, tmp_path / "b", wrong, match="it has to be a torch.nn.Module")
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    "spec",
    [0, {}, "spec", Spec, Spec(builder={"target": "x"}), Spec(keep={"0": [1, 1]}), Spec(keep=None),
     Spec(input_shape=(3, 0, 8)), Spec(input_shape=8), Spec(mean=(NAN,)), Spec(classes="ab"),
     Spec(metrics={"x": torch.ones(2)}), Spec(metrics=3)],
)  # fmt: skip
def test_save_writes_no_spec_that_load_would_refuse(spec, tmp_path):
    refused(thinet.save, network(), tmp_path / "a", spec, match="spec cannot be saved")
    assert not (tmp_path / "a").exists()


def test_exports_of_unknown_kinds(tmp_path):
    thinet.save(thinet.prune(network(), [IMAGES]), tmp_path)
    for wrong in ("", "tflite", None, "PT2", "../pt2"):
        refused(
            export, tmp_path, wrong, network(), match="is unknown: choose onnx, pt2 or openvino"
        )


@pytest.mark.parametrize(
    "labels",
    [torch.full((6,), 4), torch.full((6,), -1), torch.zeros(6), torch.zeros(6, dtype=torch.cfloat)],
)
def test_labels_that_are_no_classes(labels):
    refused(thinet.prune, network(), [(IMAGES, labels)], criterion="taylor", match="from 0 to 3")


def test_labels_of_any_whole_type():
    kept = [
        thinet.prune(network(), [(IMAGES, (torch.arange(6) % 4).to(kind))], criterion="taylor")
        .layers[0].kept
        for kind in (torch.int64, torch.int32, torch.uint8)
    ]  # fmt: skip
    assert kept[0] == kept[1] == kept[2]


def test_a_map_has_no_classes():
    net = network()[:3]
    batches = [(IMAGES, torch.zeros(6, dtype=torch.long))]
    refused(thinet.prune, net, batches, criterion="taylor", match="one score a class")


def test_the_command_line_says_the_same():
    """The very sentences: they come from one place."""
    config = {
        "ratio": 0.5, "layers": "inner", "target": None, "allocation": "uniform", "round_to": 1,
        "reconstruction": {"recalibrate_bn": "after"}, "layer_ratio": {},
        "method": {"reads": ["ratio", "layer_ratio", "target", "reconstruction"]},
    }  # fmt: skip
    for name, value in [
        ("round_to", 0), ("ratio", NAN), ("layers", []), ("target", "x:1"), ("allocation", "best"),
    ]:  # fmt: skip
        with pytest.raises(ThinetError) as caught:
            thinet.prune(network(), Untouched(), **{name: value})
        assert str(caught.value) in find_problems(config | {name: value})
