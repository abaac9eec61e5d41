"""A group that is given a list of options: Hydra would merge them, and the last would win."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException

import thinet.app.cli_errors  # installs the checks of configurations
from thinet.app.cli_errors import sentence
from thinet.base.errors import ThinetError

CONF = Path(__file__).parents[2] / "conf"
GROUPS = sorted(path.name for path in CONF.iterdir() if path.is_dir() and path.name != "hydra")


@pytest.fixture
def composed(tmp_path):
    def make(*overrides, recipe=None):
        places = []
        if recipe is not None:
            (tmp_path / "experiment").mkdir()
            text = "# @package _global_\n" + yaml.safe_dump(recipe)
            (tmp_path / "experiment" / "mine.yaml").write_text(text)
            places = [f"hydra.searchpath=[file://{tmp_path}]", "experiment=mine"]
        GlobalHydra.instance().clear()
        thinet.run.identity.register_resolvers()
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return compose("config", [*places, *overrides])

    return make


def options(group):
    return sorted(file.stem for file in (CONF / group).glob("[!_]*.yaml"))


@pytest.mark.parametrize("group", sorted(set(GROUPS) - {"logger"}))
def test_every_group_takes_one(composed, group):
    assert len(options(group)) >= 1
    some = ["grid", "grid"] if group == "sweep" else (options(group) * 2)[:2]  # others need joblib
    for chosen in (some, some[::-1], some[:1]):
        with pytest.raises(ThinetError, match=f"{group} takes one option and was given a list"):
            composed(f"{group}=[{','.join(chosen)}]")


@pytest.mark.parametrize("chosen", ["typed", "by a recipe"])
def test_what_options_have_in_common_is_none(composed, chosen):
    recipe = {"defaults": [{"override /dataset": "_base"}]}
    with pytest.raises(ThinetError, match=r"dataset=_base is what .*: choose among celeba, cif"):
        composed("dataset=_base") if chosen == "typed" else composed(recipe=recipe)


def test_nor_is_it_listed():
    from hydra._internal.config_loader_impl import ConfigLoaderImpl
    from hydra._internal.utils import create_config_search_path

    loader = ConfigLoaderImpl(create_config_search_path(str(CONF)))
    for group in GROUPS:
        assert loader.get_group_options(group) == options(group)
    assert (CONF / "dataset" / "_base.yaml").exists()


def test_a_recipe_may_not_either(composed):
    with pytest.raises(ThinetError, match="criterion takes one option"):
        composed(recipe={"defaults": [{"override /criterion": ["thinet", "l2"]}]})


def test_nor_for_hydra_s_own(composed):
    with pytest.raises(ThinetError, match="hydra/launcher takes one option"):
        composed("hydra/launcher=[basic,basic]")


def test_several_loggers_are_meant(composed):
    assert {"wandb", "tensorboard"} <= set(composed("logger=[wandb,tensorboard]").logger)
    assert composed("layers=[features.0,features.3]").layers == ["features.0", "features.3"]
    assert composed("~sweep", "criterion=l2").criterion.name == "l2"


@pytest.mark.parametrize(
    ("key", "value", "advice"),
    [
        ("criterion", "thinet,l2", "or type one of them."),
        ("logger", "wandb,csv", "or type logger=[wandb,csv] for a list"),
        ("layers", "a,b", "or type layers=[a,b] for a list"),
        ("calibration", "a,b", "or type calibration=[a,b] for a list"),
    ],
)
def test_no_message_advises_a_list_where_it_is_refused(monkeypatch, key, value, advice):
    monkeypatch.setattr(sys, "argv", [str(CONF.parent / "run.py")])
    error = HydraException(f"Ambiguous value for argument '{key}={value}'\n1. ...")
    text, code = sentence(error)
    assert text.startswith(f"{key}={value} is several values: add -m to run one after the other, ")
    assert advice in text
    assert code == 2
