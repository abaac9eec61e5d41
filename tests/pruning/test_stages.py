"""The course of the learning rate, and what is cut when, against tables written by hand."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from thinet.base.errors import ThinetError
from thinet.engine.phases import Phase
from thinet.pruning.stages import LayerPlace, make_stages

VGG16 = [
    ("features.0", 224), ("features.2", 224), ("features.5", 112), ("features.7", 112),
    ("features.10", 56), ("features.12", 56), ("features.14", 56), ("features.17", 28),
    ("features.19", 28), ("features.21", 28),
]  # fmt: skip
STAGE, GROUP_END, FINAL = Phase(1, 1e-3), Phase(2, 1e-4), Phase(12, 1e-3, "step")


def places(layers, in_sequence=True):
    return [LayerPlace(name, in_sequence, (size, size)) for name, size in layers]


def stages(kind, layers, in_sequence=True, phases=(STAGE, GROUP_END, FINAL)):
    counts = {name: place + 1 for place, (name, _) in enumerate(layers)}
    finetuning = SimpleNamespace(**dict(zip(("stage", "group_end", "final"), phases, strict=True)))
    return make_stages(kind, places(layers, in_sequence), counts, finetuning)


def test_layerwise_vgg16_as_the_paper():
    """One more phase after conv1_2, conv2_2 and conv3_3; conv4_3 is the last and gets final."""
    found = stages("layerwise", VGG16)
    assert [stage.name for stage in found] == [name for name, _ in VGG16]
    assert [stage.counts for stage in found] == [
        {name: place + 1} for place, (name, _) in enumerate(VGG16)
    ]
    ends = [stage.name for stage in found if stage.phases == (STAGE, GROUP_END)]
    assert ends == ["features.2", "features.7", "features.14"]
    assert [stage.name for stage in found if stage.phases == (FINAL,)] == ["features.21"]
    assert sum(stage.phases == (STAGE,) for stage in found) == 6
    assert [stage.epochs for stage in found] == [1, 3, 1, 3, 1, 1, 3, 1, 1, 12]
    assert [stage.index for stage in found] == list(range(10))


def test_blockwise_vgg16():
    found = stages("blockwise", VGG16)
    assert [stage.name for stage in found] == [
        "features.0-2", "features.5-7", "features.10-14", "features.17-21",
    ]  # fmt: skip
    assert [len(stage.counts) for stage in found] == [2, 2, 3, 3]
    assert [stage.phases for stage in found] == [(STAGE, GROUP_END)] * 3 + [(FINAL,)]


def test_oneshot():
    (stage,) = stages("oneshot", VGG16)
    assert stage.name == "oneshot"
    assert list(stage.counts) == [name for name, _ in VGG16]
    assert stage.phases == (FINAL,)


def test_a_block_is_a_group_whatever_its_sizes():
    """The stride in the middle of a bottleneck does not split it."""
    layers = [("layer2.0.conv1", 56), ("layer2.0.conv2", 28), ("layer2.1.conv1", 28)]
    found = stages("blockwise", layers, in_sequence=False)
    assert [(stage.name, list(stage.counts)) for stage in found] == [
        ("layer2.0", ["layer2.0.conv1", "layer2.0.conv2"]),
        ("layer2.1", ["layer2.1.conv1"]),
    ]


def test_a_lone_layer_of_a_sequence_keeps_its_name():
    found = stages("blockwise", [("features.0", 8), ("features.4", 4)])
    assert [stage.name for stage in found] == ["features.0", "features.4"]


def test_phases_of_no_epochs_are_left_out():
    nothing = Phase(0, 1e-3)
    found = stages("layerwise", VGG16, phases=(nothing, GROUP_END, nothing))
    assert [stage.epochs for stage in found] == [0, 2, 0, 2, 0, 0, 2, 0, 0, 0]
    assert found[0].phases == ()


def test_unknown_schedule():
    with pytest.raises(ThinetError, match="choose among layerwise, blockwise, oneshot"):
        stages("all_at_once", VGG16)


@pytest.fixture
def plan(compose, plan_of):
    return lambda *overrides: plan_of(compose("dataset=imagenet", *overrides))


def test_the_plan_of_vgg16(plan):
    found = plan("model=vgg16", "finetune=paper_vgg")
    assert [stage.name for stage in found.stages] == [name for name, _ in VGG16]
    assert [stage.epochs for stage in found.stages] == [1, 2, 1, 2, 1, 1, 2, 1, 1, 12]
    assert found.stages[1].phases == (Phase(1, 1e-3), Phase(1, 1e-4))
    assert found.stages[-1].phases == (Phase(12, 1e-3, "step"),)
    assert [len(s.counts) for s in plan("model=vgg16", "schedule=blockwise").stages] == [
        2, 2, 3, 3,
    ]  # fmt: skip


def test_the_plan_of_resnet50_is_one_stage_a_block(plan):
    found = plan("model=resnet50_v1", "schedule=blockwise", "finetune=paper_resnet")
    blocks = [f"layer{s}.{b}" for s, n in zip((1, 2, 3, 4), (3, 4, 6, 3), strict=True)
              for b in range(n)]  # fmt: skip
    assert [stage.name for stage in found.stages] == blocks
    assert all(
        list(stage.counts) == [f"{stage.name}.conv1", f"{stage.name}.conv2"]
        for stage in found.stages
    )
    assert [stage.epochs for stage in found.stages] == [1] * 15 + [9]
    layerwise = plan("model=resnet50_v1")
    assert len(layerwise.stages) == 32


@pytest.mark.parametrize("kind", ["blockwise", "layerwise", "oneshot"])
def test_the_plan_of_resnet56(kind, plan):
    found = plan("model=resnet56", "dataset=cifar10", f"schedule={kind}")
    convs = [f"layer{s}.{b}.conv1" for s in (1, 2, 3) for b in range(9)]
    names = {"blockwise": [name[:-6] for name in convs], "layerwise": convs, "oneshot": ["oneshot"]}
    assert [stage.name for stage in found.stages] == names[kind]
    assert [name for stage in found.stages for name in stage.counts] == convs
