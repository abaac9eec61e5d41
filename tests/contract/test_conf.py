"""Every file below conf/ composes and builds; new files are found by listing."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
import yaml

from thinet.app.config import build, check
from thinet.app.methods import make_method
from thinet.datasets.module import ImageData
from thinet.models import build as build_network
from thinet.pruning import registry as options
from thinet.pruning.criteria import Criterion
from thinet.pruning.method import Prune
from thinet.pruning.reconstruction import Reconstruction
from thinet.pruning.stages import LayerPlace, make_stages
from thinet.run.method import Method
from thinet.run.setup import Setup

CONF = Path(__file__).parents[2] / "conf"
FILES = sorted(CONF.glob("*/[!_]*.yaml"))
EXPERIMENTS = sorted(CONF.glob("experiment/*.yaml"))
PERSONS = ("reid", "cckd_resnet18_msmt17")
DRAWN = ["dataset.num_classes=10", "calibration.source=generated", "finetune.source=generated"]
"""Where there are no images, they are drawn."""
GROUPS = {
    "baseline", "binary_training", "criterion", "dataset", "distill", "experiment", "finetune",
    "logger", "method", "model", "paths", "proxy", "quantizer", "reconstruction", "sampler",
    "schedule", "search", "synthesis", "trainer",
}  # fmt: skip
UNPAPERED = ("mobilenet_v2", "lenet5", "lenet5_half", "hinton_net", "hinton_net_half", "alexnet",
             "alexnet_half", "mobilenet_v1", "mobilenet_v2_wide")  # fmt: skip
LIBRARIES = {"torchvision": "efficientnet_b0", "timm": "resnet26"}  # model=<library> model.name=


def options_of(group: str) -> list[str]:
    return [file.stem for file in FILES if file.parent.name == group]


def given(file: Path) -> list[str]:
    """What a recipe leaves to the user, ``<like this>``, and what files would tell."""
    found = ["model.weights=none"] if 'weights: "<' in file.read_text() else []
    found += ["dataset.num_classes=700"] if file.stem in PERSONS else []
    return found + (DRAWN if file.stem == "none" and file.parent.name == "dataset" else [])


def named(file: Path) -> str:
    return f"{file.parent.name}={file.stem}"


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


def test_the_groups_of_the_issue_are_there():
    assert {file.parent.name for file in FILES} >= GROUPS
    common = {CONF / "dataset" / "_base.yaml"}
    deeper = set(CONF.rglob("*.yaml")) - {*FILES, *common, CONF / "config.yaml"}
    assert deeper == set(), "these would not be tested"


@pytest.mark.parametrize("file", FILES, ids=named)
def test_it_composes_and_builds(file, compose, two_gpus):
    group, option = file.parent.name, file.stem
    config = check(compose(f"{group}={option}", *given(file)))
    setup, method = build(config)
    assert isinstance(setup, Setup)
    assert isinstance(setup.data, ImageData)
    assert setup.devices.devices in (1, 2)
    assert isinstance(method, Method)
    if config["method"]["name"] == "prune":
        assert isinstance(method, Prune)
        assert isinstance(method.choosing.criterion, Criterion)
        assert isinstance(method.choosing.reconstruction, Reconstruction)
    else:
        assert group in ("method", "experiment")
    if isinstance(config.get(group), dict) and "name" in config[group]:
        assert config[group]["name"] == option


@pytest.mark.parametrize("file", FILES, ids=named)
def test_it_says_what_it_is(file):
    lines = [line for line in file.read_text().splitlines() if not line.startswith("# @package")]
    assert lines[0].startswith("# ") or all(" # " in line for line in lines)


@pytest.mark.parametrize("option", options_of("model"))
def test_a_model_is_built_for_its_own_image_size(option, compose):
    chosen = [f"model.name={LIBRARIES[option]}"] if option in LIBRARIES else []
    data = ["dataset=folder", "dataset.num_classes=7"]
    setup, method = build(check(compose(f"model={option}", *chosen, *data)))
    size, source = setup.image_size, setup.source
    assert size == yaml.safe_load((CONF / "model" / f"{option}.yaml").read_text())["image_size"]
    assert bool(method.request.paper) == (
        option not in {*LIBRARIES, *UNPAPERED} and "binary" not in option
    )
    with torch.device("meta"):
        network = build_network(source.target, **source.arguments, num_classes=7, image_size=size)
        assert network.eval()(torch.empty(1, 3, size, size)).shape == (1, 7)


@pytest.mark.parametrize("option", options_of("method"))
def test_a_method_is_made_from_what_its_yaml_says_it_reads(option, compose):
    config = check(compose(f"method={option}"))
    assert set(config["method"]["reads"]) <= set(config)
    assert set(config["method"]["sizes"]) <= set(config["method"]["reads"])
    assert type(make_method(config)).__name__.lower() == option


@pytest.mark.parametrize("option", options_of("schedule"))
def test_a_schedule_makes_stages(option, compose):
    _, method = build(check(compose(f"schedule={option}")))
    place = LayerPlace("features.0", True, (8, 8))
    (stage,) = make_stages(method.schedule, [place], {"features.0": 1}, method.finetuning)
    assert stage.counts == {"features.0": 1}


@pytest.mark.parametrize("option", options_of("logger"))
def test_a_logger_has_a_maker(option, compose):
    from thinet.engine.logging import loggers

    chosen = check(compose(f"logger=[{option}]"))["logger"] or {}
    assert list(chosen) == ([] if option == "csv" else [option])
    assert all(callable(getattr(loggers, f"make_{name}")) for name in chosen)


@pytest.mark.parametrize(
    ("group", "base"), [("criterion", Criterion), ("reconstruction", Reconstruction)]
)
def test_configured_and_written_implementations_are_the_same(group, base, compose):
    package = {"criterion": "criteria", "reconstruction": "reconstruction"}[group]
    assert options_of(group) == sorted(options.names(package, base))
    for option in options_of(group):
        _, method = build(check(compose(f"{group}={option}")))
        own = getattr(method.choosing, group)
        assert type(own) is type(options.find(package, option, base))
        assert vars(own) == vars(options.find(package, option, base)), "defaults differ"


@pytest.mark.parametrize("file", EXPERIMENTS, ids=named)
def test_an_experiment_states_its_command(file):
    assert f"python run.py experiment={file.stem}" in file.read_text()


@pytest.mark.parametrize("file", EXPERIMENTS, ids=named)
def test_an_experiment_can_be_overridden(file, compose):
    more = ["ratio=0.25", "seed=9", "method=train", *given(file)]
    config = check(compose(f"experiment={file.stem}", *more))
    assert (config["ratio"], config["seed"], config["method"]["name"]) == (0.25, 9, "train")


@pytest.mark.parametrize(
    ("dataset", "finetune"),
    [*zip(options_of("dataset"), itertools.cycle(options_of("finetune")), strict=False)],
)
def test_every_recipe_fits_every_data_set(dataset, finetune, compose):
    more = ["dataset.num_classes=700"] if dataset in PERSONS else []
    more += DRAWN if dataset == "none" else []
    setup, method = build(check(compose(f"dataset={dataset}", f"finetune={finetune}", *more)))
    assert setup.data.batch_size >= 1
    assert setup.source.phase.epochs >= 1
    assert method.finetuning.final.epochs >= (finetune != "none")
