"""From names, globs and ratios to layers and counts."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from thinet.errors import ThinetError
from thinet.surgery import resolve_counts, resolve_layers, trace


@pytest.fixture(scope="module")
def graph():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Conv2d(3, 10, 1)
            self.block1 = nn.Sequential(nn.Conv2d(10, 100, 1), nn.ReLU(), nn.Conv2d(100, 10, 1))
            self.block2 = nn.Sequential(nn.Conv2d(10, 20, 1), nn.ReLU(), nn.Conv2d(20, 10, 1))
            self.fc1, self.fc2 = nn.Linear(10, 30), nn.Linear(30, 2)

        def forward(self, x):
            x = self.stem(x)
            x = x + self.block1(x)
            x = x + self.block2(x)
            return self.fc2(self.fc1(x.mean((2, 3))).relu())

    return trace(Net(), torch.randn(1, 3, 4, 4))


TIED = ["stem", "block1.2", "block2.2"]


def test_all_means_every_convolution_that_can_go(graph):
    layers, skipped = resolve_layers(graph, "all")
    assert layers == ["block1.0", "block2.0"]
    assert list(skipped) == TIED
    assert "stem" in skipped["block1.2"]
    assert resolve_layers(graph, "*") == (layers, skipped)


def test_names_and_globs_come_in_order_of_execution_without_repetition(graph):
    assert resolve_layers(graph, ["fc1", "block2.0", "block*.0"])[0] == [
        "block1.0", "block2.0", "fc1",
    ]  # fmt: skip
    assert resolve_layers(graph, "block2.*") == (
        ["block2.0"], {"block2.2": graph.layers["block2.2"].reason},
    )  # fmt: skip
    assert resolve_layers(graph, "fc*")[0] == ["fc1"]  # linear layers only when asked for
    assert resolve_layers(graph, "block[12].0")[0] == ["block1.0", "block2.0"]


def test_paper_stands_for_the_layers_of_the_model_file(graph):
    assert resolve_layers(graph, "paper", ["block?.0"])[0] == ["block1.0", "block2.0"]
    with pytest.raises(ThinetError, match="layers=all"):
        resolve_layers(graph, "paper")


def test_a_name_that_matches_nothing_gets_a_suggestion(graph):
    with pytest.raises(ThinetError, match=r"'block1\.O'.*did you mean 'block1\.0'"):
        resolve_layers(graph, ["block1.O"])
    with pytest.raises(ThinetError, match="matches no layer"):
        resolve_layers(graph, ["block1.0", "conv*"])


def test_a_layer_asked_for_by_name_must_be_prunable(graph):
    with pytest.raises(ThinetError, match=r"stem cannot be pruned: .*choose among block1\.0"):
        resolve_layers(graph, ["block1.0", "stem"])
    with pytest.raises(ThinetError, match="output"):
        resolve_layers(graph, "fc2")


def test_nothing_left_is_an_error(graph):
    for layers in ([], "block?.2"):
        with pytest.raises(ThinetError, match="no layer is left"):
            resolve_layers(graph, layers)


LAYERS = ["block1.0", "block2.0", "fc1"]


def test_one_ratio_for_all(graph):
    assert resolve_counts(graph, LAYERS, 0.29) == {"block1.0": 29, "block2.0": 5, "fc1": 8}
    assert resolve_counts(graph, ["block2.0"], 0.001) == {"block2.0": 1}


def test_a_name_goes_before_a_glob_and_an_earlier_glob_before_a_later(graph):
    for ratio in (
        {"block*": 0.5, "*": 0.1, "block1.0": 0.2},
        {"block1.0": 0.2, "block*": 0.5, "*": 0.1},
    ):
        assert resolve_counts(graph, LAYERS, ratio) == {"block1.0": 20, "block2.0": 10, "fc1": 3}
    assert resolve_counts(graph, LAYERS, {"*": 0.1, "block*": 0.5})["block2.0"] == 2


def test_layers_without_a_ratio_are_left_out(graph):
    assert resolve_counts(graph, LAYERS, {"block2.0": 0.5}) == {"block2.0": 10}
    assert resolve_counts(graph, LAYERS, {"block2.0": 0.5, "fc1": 1}) == {"block2.0": 10, "fc1": 30}


@pytest.mark.parametrize("ratio", [1.0, 1, {"*": 1.0}, 0.999999999999, {}])
def test_nothing_to_remove_is_an_error(graph, ratio):
    with pytest.raises(ThinetError, match="smaller ratio"):
        resolve_counts(graph, LAYERS, ratio)


def test_a_key_that_matches_no_layer_is_an_error(graph):
    for key in ("block3.0", "stem", "block?.2"):  # unknown, known but not pruned
        with pytest.raises(ThinetError, match="matches no layer to prune"):
            resolve_counts(graph, LAYERS, {"*": 0.5, key: 0.5})


@pytest.mark.parametrize("ratio", [0, -0.1, 1.5, float("nan"), "half", None, True, {"*": 2}])
def test_a_senseless_ratio_is_an_error(graph, ratio):
    with pytest.raises(ThinetError, match="not a number in"):
        resolve_counts(graph, LAYERS, ratio)
