from __future__ import annotations

import pytest
from omegaconf import OmegaConf, open_dict

from thinet.base.errors import ThinetError
from thinet.run.identity import fingerprint
from thinet.sweeps.optuna_space import layer_ratios

BUDGET = "target=flops:0.5"


class Trial:
    """Takes down what is asked for, as Optuna's trial."""

    def __init__(self):
        self.asked = {}

    def suggest_float(self, name, low, high, *, step):
        self.asked[name] = (low, high)
        return high


@pytest.fixture
def typed(compose_tiny):
    """A configuration with what a sweep's callback and search space see of Hydra."""

    def make(*overrides):
        cfg = compose_tiny(*overrides)
        with open_dict(cfg):
            cfg.hydra = OmegaConf.create({"overrides": {"task": list(overrides)}})
        return cfg

    return make


@pytest.fixture
def widths(plan_of):
    def find(cfg):
        narrow, wide = cfg.model.build.widths
        full = {"features.0": narrow, "features.3": narrow, "features.7": wide}
        rows = {row.layer: row.filters_after for row in plan_of(cfg).rows}
        return list((full | rows).values())

    return find


@pytest.fixture
def share(plan_of):
    def find(cfg):
        plan = plan_of(cfg)
        return plan.after.flops / plan.before.flops

    return find


def test_a_trial_is_asked_for_one_ratio_a_layer(typed):
    trial = Trial()
    layer_ratios(typed(BUDGET), trial)
    assert trial.asked == {f"+layer_ratio.{place}": (0.1, 1.0) for place in range(3)}


def test_only_the_layers_to_prune_are_counted(typed):
    trial = Trial()
    layer_ratios(typed(BUDGET, "layers=[features.3]"), trial)
    assert list(trial.asked) == ["+layer_ratio.0"]


def test_without_a_budget_the_search_is_refused(typed):
    with pytest.raises(ThinetError, match=r"type for example target=flops:0\.5"):
        layer_ratios(typed(), Trial())


def test_a_search_space_of_ones_own_goes_before(typed):
    trial = Trial()
    layer_ratios(typed("+layer_ratio.0=0.5"), trial)
    assert trial.asked == {}


def test_ratios_by_place_are_the_ratios_of_those_layers(compose_tiny, widths):
    wide = ("model.build.widths=[8,16]",)
    mixed = compose_tiny(*wide, "+layer_ratio.0=0.25", "+layer_ratio.2=0.75", "ratio=0.5")
    by_name = compose_tiny(*wide, "ratio={features.0:0.25,features.3:0.5,features.7:0.75}")
    assert widths(mixed) == widths(by_name) == [2, 4, 12]


@pytest.mark.parametrize("shape", [(1.0, 0.2, 0.4), (0.2, 1.0, 1.0), (0.3, 0.3, 0.3)])
def test_with_a_target_they_are_relative_and_the_budget_is_met(compose_tiny, widths, share, shape):
    wide = ("model.build.widths=[32,64]", BUDGET)
    ratios = [f"+layer_ratio.{place}={ratio}" for place, ratio in enumerate(shape)]
    found = widths(compose_tiny(*wide, *ratios))
    halves = [f"+layer_ratio.{place}={ratio / 2}" for place, ratio in enumerate(shape)]
    assert widths(compose_tiny(*wide, *halves)) == found, "only their relation counts"
    assert 0.44 < share(compose_tiny(*wide, *ratios)) <= 0.5
    kept = [count / full for count, full in zip(found, (32, 32, 64), strict=True)]
    factor = [one / want for one, want in zip(kept, shape, strict=True) if one < 1]
    assert max(factor) - min(factor) < 1 / 32 / min(shape) + 1e-9


def test_equal_ratios_are_what_a_target_alone_gives(compose_tiny, widths):
    wide = ("model.build.widths=[32,64]", BUDGET)
    same = [f"+layer_ratio.{place}=0.7" for place in range(3)]
    assert widths(compose_tiny(*wide, *same)) == widths(compose_tiny(*wide))


@pytest.mark.parametrize(
    ("overrides", "match"),
    [
        (["+layer_ratio.3=0.5"], r"layer 3, and 3 layers .* from 0 to 2"),
        (["+layer_ratio.0=1.5"], r"ratio=1\.5 for 'layer 0' is not a number in \(0, 1\]"),
        (["+layer_ratio.features=0.5"], r"from places in the plan"),
        (["+layer_ratio.0=0.5", "ratio={features.0:0.5}"], "contradict each other"),
        (["+layer_ratio.0=0.5", BUDGET, "allocation=error"], "contradict each other"),
    ],
)
def test_what_makes_no_sense_is_refused(compose_tiny, plan_of, overrides, match):
    with pytest.raises(ThinetError, match=match):
        plan_of(compose_tiny(*overrides))


def test_runs_without_them_are_the_runs_they_were(compose_tiny):
    cfg = compose_tiny()
    before = fingerprint(cfg)
    with open_dict(cfg):
        del cfg["layer_ratio"]
    assert fingerprint(cfg) == before
    assert fingerprint(compose_tiny("+layer_ratio.0=0.5")) != before


@pytest.mark.parametrize("preset", ["joblib", "submitit", "submitit_local", "ray", "optuna"])
def test_a_point_is_the_same_run_on_any_launcher(compose_tiny, preset):
    pytest.importorskip(
        f"hydra_plugins.hydra_{preset.partition('_')[0]}_"
        + ("sweeper" if preset == "optuna" else "launcher")
    )
    assert compose_tiny(f"sweep={preset}").name == compose_tiny().name
