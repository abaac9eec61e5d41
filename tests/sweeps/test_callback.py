from __future__ import annotations

import pytest
from omegaconf import OmegaConf

from thinet.base.errors import ThinetError
from thinet.sweeps.callback import SweepCallback, check_objective

OPTUNA = "hydra_plugins.hydra_optuna_sweeper.optuna_sweeper.OptunaSweeper"
BASIC = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"


def swept(sweeper, dataset, outputs="outputs"):
    """What the callback reads of a configuration before the first point."""
    launcher = {"_target_": "hydra._internal.core_plugins.basic_launcher.BasicLauncher"}
    return OmegaConf.create({
        "hydra": {"sweeper": {"_target_": sweeper}, "launcher": launcher},
        "dataset": {"name": dataset}, "trainer": {"accelerator": "cpu"},
        "paths": {"outputs": str(outputs)}, "dry_run": False,
    })  # fmt: skip


def test_a_search_without_images_is_refused():
    with pytest.raises(ThinetError, match="type a data set, for example dataset=digits") as refused:
        check_objective(swept(OPTUNA, "none"))
    assert str(refused.value).count(". ") == 0


def test_points_that_are_typed_need_no_images_and_searches_have_some():
    check_objective(swept(BASIC, "none"))
    check_objective(swept(OPTUNA, "digits"))


def test_it_is_refused_before_anything_is_made(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        SweepCallback().on_multirun_start(swept(OPTUNA, "none", tmp_path / "outputs"))
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("error: a search looks for the best accuracy")
    assert list(tmp_path.iterdir()) == []
