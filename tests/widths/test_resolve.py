"""From names, globs and ratios to layers and counts."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from thinet.base.errors import ThinetError
from thinet.surgery import trace
from thinet.widths.resolve import resolve_counts, resolve_layers, rounded


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


STREAM = ["stem", "block1.2", "block2.2"]


def test_inner_means_every_layer_whose_output_is_added_to_nothing(graph):
    layers, skipped = resolve_layers(graph, "inner")
    assert layers == ["block1.0", "block2.0", "fc1"]
    assert list(skipped) == [*STREAM, "fc2"]
    assert all("layers=all prunes them together" in skipped[name] for name in STREAM)
    assert skipped["fc2"] == "they are the network's output"


def test_all_means_residual_streams_too_each_as_one(graph):
    layers, skipped = resolve_layers(graph, "all")
    assert layers == ["stem", "block1.0", "block2.0", "fc1"]
    assert list(skipped) == ["fc2"]
    assert [layer.name for layer in graph.groups["stem"].layers] == STREAM


def test_a_glob_leaves_streams_whole_and_says_why(graph):
    layers, skipped = resolve_layers(graph, "*")
    assert layers == ["block1.0", "block2.0", "fc1"]
    assert sorted(skipped) == sorted([*STREAM, "fc2"])
    assert "layers=all" in skipped["block2.2"]


def test_the_name_of_any_layer_of_a_stream_stands_for_all_of_it(graph):
    for name in STREAM:
        assert resolve_layers(graph, [name, "fc1"]) == (["stem", "fc1"], {})
    assert resolve_layers(graph, ["stem", "block1.2"]) == (["stem"], {})
    # What a glob would leave out is in all the same if it is named too.
    assert resolve_layers(graph, ["block1.*", "stem"]) == (["stem", "block1.0"], {})


def test_auto_is_paper_where_there_is_one_else_inner(graph):
    assert resolve_layers(graph, "auto") == resolve_layers(graph, "inner")
    assert resolve_layers(graph, "auto", ["block1.0"]) == (["block1.0"], {})


def test_names_and_globs_come_in_order_of_execution_without_repetition(graph):
    assert resolve_layers(graph, ["fc1", "block2.0", "block*.0"])[0] == [
        "block1.0", "block2.0", "fc1",
    ]  # fmt: skip
    assert resolve_layers(graph, "block2.*")[0] == ["block2.0"]
    assert list(resolve_layers(graph, "block2.*")[1]) == ["block2.2"]
    assert resolve_layers(graph, "fc*")[0] == ["fc1"]
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
    with pytest.raises(
        ThinetError, match=r"fc2 cannot be pruned: .*output; choose among block1\.0"
    ):
        resolve_layers(graph, ["block1.0", "fc2"])
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
    assert resolve_counts(graph, ["stem"], 0.5) == {"stem": 5}


def test_a_name_goes_before_a_glob_and_an_earlier_glob_before_a_later(graph):
    for ratio in (
        {"block*": 0.5, "*": 0.1, "block1.0": 0.2},
        {"block1.0": 0.2, "block*": 0.5, "*": 0.1},
    ):
        assert resolve_counts(graph, LAYERS, ratio) == {"block1.0": 20, "block2.0": 10, "fc1": 3}
    assert resolve_counts(graph, LAYERS, {"*": 0.1, "block*": 0.5})["block2.0"] == 2


def test_a_ratio_for_any_layer_of_a_stream_is_one_for_the_stream(graph):
    layers = ["stem", "block1.0"]
    assert resolve_counts(graph, layers, {"block2.2": 0.3, "*": 0.5}) == {"stem": 3, "block1.0": 50}
    assert resolve_counts(graph, layers, {"block2.*": 0.3}) == {"stem": 3}
    # The stream's own name goes before that of another of its layers.
    assert resolve_counts(graph, layers, {"block2.2": 0.3, "stem": 0.7}) == {"stem": 7}


def test_layers_without_a_ratio_are_left_out(graph):
    assert resolve_counts(graph, LAYERS, {"block2.0": 0.5}) == {"block2.0": 10}
    assert resolve_counts(graph, LAYERS, {"block2.0": 0.5, "fc1": 1}) == {"block2.0": 10, "fc1": 30}


@pytest.mark.parametrize("ratio", [1.0, 1, {"*": 1.0}, 0.999999999999, {}])
def test_nothing_to_remove_is_an_error(graph, ratio):
    with pytest.raises(ThinetError, match="smaller ratio"):
        resolve_counts(graph, LAYERS, ratio)


def test_a_key_that_matches_no_layer_is_an_error(graph):
    for key in ("block3.0", "stem", "block?.2", "fc2"):  # unknown, known but not pruned
        with pytest.raises(ThinetError, match="matches no layer to prune"):
            resolve_counts(graph, LAYERS, {"*": 0.5, key: 0.5})


@pytest.mark.parametrize("ratio", [0, -0.1, 1.5, float("nan"), "half", None, True, {"*": 2}])
def test_a_senseless_ratio_is_an_error(graph, ratio):
    with pytest.raises(ThinetError, match="not a number in"):
        resolve_counts(graph, LAYERS, ratio)


def test_widths_are_rounded_to_the_nearest_multiple(graph):
    """Pain of the peers' users: a slower network, until its widths were multiples of 8 or 16."""
    group = graph.groups["block1.0"]  # 100 filters
    found = [rounded(group, ratio, 8) for ratio in (0.01, 0.11, 0.12, 0.5, 0.52, 0.99, 1.0)]
    assert found == [8, 8, 16, 48, 56, 96, 100]
    assert [rounded(group, ratio, 1) for ratio in (0.001, 0.29, 1.0)] == [1, 29, 100]
    assert rounded(graph.groups["block2.0"], 0.5, 32) == 20  # 20 filters: no multiple of 32
    assert rounded(graph.groups["block2.0"], 0.1, 16) == 16
    assert resolve_counts(graph, LAYERS, 0.5, round_to=8) == {
        "block1.0": 48, "block2.0": 8, "fc1": 16,
    }  # fmt: skip


def test_rounding_is_of_filters_where_a_unit_is_several_of_them():
    net = nn.Sequential(
        nn.Conv2d(3, 48, 1), nn.Conv2d(48, 48, 1, groups=4), nn.Conv2d(48, 48, 1), nn.Flatten(),
        nn.Linear(48 * 4, 2),
    )  # fmt: skip
    graph = trace(net, torch.randn(1, 3, 2, 2))
    group = graph.groups["0"]
    assert (group.units, group.layers[0].filters) == (12, 48)
    for round_to, counts in ((4, [3, 6, 12]), (8, [4, 6, 12]), (16, [4, 8, 12]), (6, [3, 6, 12])):
        assert [rounded(group, ratio, round_to) for ratio in (0.25, 0.5, 1.0)] == counts


def test_rounding_everything_away_is_an_error(graph):
    with pytest.raises(ThinetError, match="smaller ratio"):
        resolve_counts(graph, ["block2.0"], 0.5, round_to=64)
