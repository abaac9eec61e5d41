"""``python run.py`` on a machine with a (pretended) GPU: Lightning and thinet believe in it."""

from __future__ import annotations

import json

import pytest

import thinet
from thinet.base.errors import ThinetError
from thinet.run import steps as loop
from thinet.widths import choose as planning

DRAWN = [
    "method=datafree", "teacher.build.widths=[6,8]", "synthesis.course.epochs=2",
    "synthesis.course.batch_size=16", "synthesis.drawing.width=4", "synthesis.drawing.latent=5",
]  # fmt: skip
METHODS = {
    "prune, inspected": ["inspect=true", "keep_steps=true"],
    "prune at once, by error": ["schedule=oneshot", "allocation=error", "target=flops:0.5"],
    "prune towards the original": [
        "reconstruction=refit", "reconstruction.build.target=original", "target=latency:0.9",
        "reconstruction.recalibrate_bn=each", "schedule=blockwise",
    ],
    "train": ["method=train"],
    "scratch": ["method=scratch"],
    "sensitivity": ["method=sensitivity", "method.ratios=[0.5]", "method.trials=2"],
    "bf16": ["trainer.precision=bf16-mixed", "criterion=taylor", "schedule=oneshot"],
    "distill": ["method=distill", "teacher.build.widths=[6,8]", "sampler=class_uniform"],
    "distill, by superclass": [
        "method=distill", "teacher.build.widths=[6,8]", "sampler=superclass_uniform",
        "distill.project=5", "trainer.precision=bf16-mixed",
    ],
    "prune, distilled": ["distill=cckd", "schedule=oneshot", "trainer.precision=16-mixed"],
    "binarize": [
        "method=binarize", "model.build.widths=[16,16]", "distill=cckd", "quantizer.scale=constant",
        "binary_training.activations.epochs=1", "binary_training.weights.epochs=1",
    ],
    "binarize, bf16": [
        "method=binarize", "model.build.widths=[16,16]", "binary_training=one_step",
        "binary_training.weights.epochs=1", "trainer.precision=bf16-mixed",
    ],
    "metaprune": [
        "method=metaprune", "model.build.widths=[8,12]", "proxy.build.hidden=4", "proxy.epochs=2",
        "search.generations=2", "search.population=3", "search.mutations=2",
        "search.calibration=20",
        "search.tolerance=0.2",
    ],
    "metaprune, pruned": [
        "method=metaprune", "model.build.widths=[8,12]", "proxy=prune", "search.generations=1",
        "search.population=3", "search.tolerance=0.2", "search.calibration=20",
    ],
    "metaprune, bf16": [
        "method=metaprune", "model.build.widths=[8,12]", "proxy=shared", "proxy.epochs=2",
        "search.generations=1", "search.population=3", "search.tolerance=0.2",
        "search.calibration=20", "trainer.precision=bf16-mixed",
    ],
    "datafree": [
        *DRAWN, "synthesis.memory.average=0.9", "synthesis.memory.pool=20",
        "synthesis.losses.adversarial=1", "trainer.precision=16-mixed",
    ],
    "datafree, generator first": [
        *DRAWN, "synthesis.course.mode=generator_first", "trainer.precision=bf16-mixed",
    ],
    "prune without data": [
        *DRAWN[2:], "experiment=prune_datafree",
    ],
    "found": ["method=train", "evaluate=retrieval"],
    "float16": ["trainer.precision=16-mixed", "baseline.clip_norm=1.0", "method=train"],
}  # fmt: skip


def layers(found):
    return found["details"]["pruning"]["layers"]


@pytest.fixture
def result(type_, tiny, tmp_path, gpu, monkeypatch):
    """``result(...)``: run it with success, and give its folder and ``result.json``.

    A latency target is one of FLOPs here: what a pretended GPU takes says nothing. Nor is a graph
    made for OpenVINO: what it is traced with does not see through the pretence.
    """

    def as_many_as_flops(networks, shape):
        return [thinet.cost(network, shape).flops for network in networks]

    def refused(*_):
        raise ThinetError("openvino is not installed.")

    monkeypatch.setattr(planning, "latencies_ms", as_many_as_flops)
    monkeypatch.setattr("thinet.quantization.comparison.deployed", refused)

    def run(*arguments, trainer="gpu", of=tiny):
        outcome = type_(*of, f"trainer={trainer}", "traceback=true", *arguments)
        assert outcome.code == 0, outcome.err[-3000:]
        files = (tmp_path / "outputs").glob("*/result.json")
        latest = max(files, key=lambda file: file.stat().st_mtime_ns)
        return latest.parent, json.loads(latest.read_text())

    return run


@pytest.mark.parametrize("what", METHODS)
def test_every_method(result, what):
    folder, found = result(*METHODS[what])
    assert (folder / "report.html").exists()
    assert found["environment"]["device"] == "1 x pretended GPU"
    for step in found["steps"]:
        assert step["peak_memory_of"] == "GPU"


def test_it_chooses_what_the_cpu_chooses(result):
    kept = [
        [row["kept"] for row in layers(result("schedule=oneshot", trainer=trainer)[1])]
        for trainer in ("cpu", "auto")
    ]
    assert kept[0] == kept[1]
    assert all(kept[0])


def test_all_layers_of_a_residual_network(result, tiny):
    small = [text for text in tiny if not text.startswith("model.")]
    _, found = result(
        "model=resnet20", "layers=all", "schedule=oneshot", "criterion=l2", "reconstruction=none",
        "finetune=none", of=small,
    )  # fmt: skip
    assert {"layer1.0.conv1", "layer3.2.conv1"} <= {row["layer"] for row in layers(found)}


def test_an_interrupted_run_goes_on(result, type_, tiny, monkeypatch):
    commit = loop._commit

    def interrupted(session, record, *rest, **more):
        if record.index == 1:
            raise KeyboardInterrupt
        commit(session, record, *rest, **more)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "_commit", interrupted)
        assert type_(*tiny, "trainer=gpu").code == 130
    folder, found = result()
    assert "resuming after 1 of 3 steps" in (folder / "run.log").read_text()
    assert len(found["steps"]) == 3


def test_a_finished_run_is_where_another_begins(result):
    first, before = result("schedule=oneshot")
    second, after = result("schedule=oneshot", f"model.weights={first}", "ratio=0.7")
    assert after["reference"]["flops"] == before["model"]["flops"]
    assert not any(one.is_cuda for one in thinet.load(second / "model").parameters())


def test_images_find_their_like_as_on_the_cpu(result):
    how = ("schedule=oneshot", "trainer.precision=bf16-mixed", "evaluate=retrieval")
    found = [result(*how, trainer=trainer)[1] for trainer in ("cpu", "gpu")]
    for whose in ("reference", "model"):
        old, new = ({**one[whose], "latency_ms": 0} for one in found)
        assert old == new
    assert found[0]["reference"]["mean_ap"] > 0
