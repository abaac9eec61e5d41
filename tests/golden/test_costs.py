"""The costs that the ThiNet papers print, through the plan of a dry run."""

from __future__ import annotations

import pytest


@pytest.fixture
def plan(compose, plan_of):
    def make(model, ratio, *more):
        return plan_of(compose("dataset=imagenet", f"model={model}", f"ratio={ratio}", *more))

    return make


# Luo et al. 2017, tables 2 and 3, and the authors' published networks; ratio 0.5 of each
@pytest.mark.parametrize(
    ("model", "before", "after"),
    [
        ("vgg16", ("30.94", "138.34"), ("9.58", "131.44")),
        ("vgg16_gap", ("30.69", "15.22"), ("9.34", "8.32")),
        ("resnet50_v1", ("7.72", "25.56"), ("3.41", "12.38")),
    ],
)
def test_billions_of_flops_and_millions_of_weights(model, before, after, plan):
    made = plan(model, 0.5)
    found = {
        when: (f"{cost.flops / 1e9:.2f}", f"{cost.weights / 1e6:.2f}")
        for when, cost in (("before", made.before), ("after", made.after))
    }
    assert found["after"] == after
    assert found["before"] == before
    assert made.before.macs * 2 == made.before.flops


@pytest.mark.parametrize(("ratio", "weights"), [(0.5, 131_440_480), (0.4, 130_503_922)])
def test_vgg16_to_the_weight(ratio, weights, plan):
    found = plan("vgg16", ratio)
    widths = [64, 64, 128, 128, 256, 256, 256, 512, 512, 512]
    kept = [int(width * round(ratio * 10)) // 10 for width in widths]
    assert [row.filters_after for row in found.rows] == kept
    assert found.before.weights == 138_344_128
    assert found.before.params == 138_357_544
    assert found.after.weights == weights


def by_hand(kept):
    """Multiply-accumulates and weights of VGG-16 at 224 with ten layers of these widths."""
    widths = [*kept, 512, 512, 512]
    sizes = [224] * 2 + [112] * 2 + [56] * 3 + [28] * 3 + [14] * 3
    macs = weights = 0
    channels = 3
    for width, size in zip(widths, sizes, strict=True):
        weights += 9 * channels * width
        macs += 9 * channels * width * size * size
        channels = width
    dense = 25088 * 4096 + 4096 * 4096 + 4096 * 1000
    return macs + dense, weights + dense


@pytest.mark.parametrize("ratio", [0.3, 0.5, 0.7])
def test_vgg16_equals_the_sum_over_its_layers(ratio, plan):
    found = plan("vgg16", ratio)
    macs, weights = by_hand([row.filters_after for row in found.rows])
    assert (found.after.macs, found.after.weights) == (macs, weights)


def test_vgg16_gap_to_the_weight(plan):
    assert plan("vgg16_gap", 0.5).after.weights == 8_318_816


@pytest.mark.parametrize(
    ("ratio", "flops", "weights"),
    [(0.7, 4_880_052_680, "16.94"), (0.5, 3_412_852_736, "12.38"), (0.3, 2_194_985_078, "8.66")],
)
def test_resnet50_to_the_flop(ratio, flops, weights, plan):
    found = plan("resnet50_v1", ratio)
    assert found.after.flops == flops
    assert f"{found.after.weights / 1e6:.2f}" == weights
    assert len(found.rows) == 32
    for row in found.rows:
        width = 64 * 2 ** (int(row.layer[5]) - 1)
        assert row.filters_before == width
        assert row.filters_after == width * round(ratio * 10) // 10
        assert row.ratio == row.filters_after / width


def test_torchvisions_resnet50_costs_more(plan):
    assert f"{plan('resnet50', 0.5).before.flops / 1e9:.2f}" == "8.18"


def test_a_mapping_of_ratios(plan):
    found = plan("vgg16", "{features.0:0.25,features.1*:0.75,*:0.5}")
    kept = {row.layer: row.filters_after for row in found.rows}
    assert kept == {
        "features.0": 16, "features.2": 32, "features.5": 64, "features.7": 64,
        "features.10": 192, "features.12": 192, "features.14": 192, "features.17": 384,
        "features.19": 384, "features.21": 256,
    }  # fmt: skip


def test_layers_that_lose_nothing_make_no_stage(plan):
    found = plan("vgg16", "{features.0:1.0,features.2:0.5}")
    assert [row.layer for row in found.rows] == ["features.2"]
    assert [stage.name for stage in found.stages] == ["features.2"]


def test_rows_state_what_each_layer_costs_in_the_end(plan):
    first, second = plan("vgg16", 0.5).rows[:2]
    assert first.flops_before == 2 * 27 * 64 * 224**2
    assert first.flops_after == 2 * 27 * 32 * 224**2
    assert second.flops_after == 2 * 9 * 32 * 32 * 224**2, "its input is narrower too"
    assert (second.params_before, second.params_after) == (9 * 64 * 64 + 64, 9 * 32 * 32 + 32)


def test_the_dry_run_prints_them(compose, tmp_path, capsys):
    from thinet.app.main import run

    cfg = compose("dataset=imagenet", "model=vgg16", "dry_run=true")
    assert run(cfg) is None
    text = capsys.readouterr().out
    for figure in ("30.94", "138.34", "9.58", "131.44"):
        assert figure in text
    assert "keeps 32 of 64" in text
    assert not list(tmp_path.rglob("*"))
