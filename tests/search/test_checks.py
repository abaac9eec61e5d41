"""What is wrong with the settings of a search is said at once, in a sentence, with what to type."""

from __future__ import annotations

import pytest

from thinet.app.config import build, check
from thinet.base.errors import ThinetError
from thinet.search.method import Metaprune
from thinet.search.proxies import Hypernet, Shared

WRONG = {
    "target=null": "has none: type for example target=flops:0.5",
    "target=flops:1.5": "target=flops:1.5",
    "layers=[]": "layers=",
    "search.generations=0": "generations=0 is not a whole number of at least 1",
    "search.population=many": "population=many is not a whole number",
    "search.mutation_rate=0": r"mutation_rate=0 is not in \(0, 1\]",
    "search.spread=-1": "spread=-1 is not in",
    "search.scales=[100,50]": "scales=.* rising: type for example search.scales=",
    "search.scales=50": "scales=50",
    "search.tolerance=0": "tolerance=0 is not in",
    "search.images=0": "images=0",
    "search.calibration=1": "calibration=1 is not a whole number of at least 2",
    "search.algorithm=annealing": "algorithm=annealing is none of evolution, nsga2",
    "search.tied=conv1": "tied=conv1 is no list",
    "proxy.build.hidden=0": "hidden=0 is not a whole number",
    "proxy.build.norms=every": "norms=every is none of each, one",
    "proxy.build.rank=0": "rank=0",
    "proxy.build.shared=2": "shared=2 is neither true nor false",
    "proxy.build.blocks=layer1": "blocks=layer1 is no list",
    "proxy.epochs=0": "proxy.epochs=0 is not a whole number of at least 1",
    "proxy.lr=-1": "lr=-1 is not a positive number",
    "proxy.clip_norm=0": "proxy.clip_norm=0 is not a positive number",
    "proxy.label_smoothing=1": "proxy.label_smoothing=1 is not in",
    "method.table=README.md": "method.table=README.md",
    "method.controls=[random]": "method.controls=.*choose among uniform",
    "method.train=2": "method.train=2 is neither true nor false",
    "method.epochs=0": "method.epochs=0 is not a whole number of at least 1",
    "method.start=middle": "method.start=middle is unknown: choose among proxy, search, training",
    "method.start=search": "method.start=search goes on from a run",
    "method.of=outputs/none": "type method.start=search, or method.start=training",
}


@pytest.mark.parametrize("override", WRONG)
def test_a_wrong_setting_is_refused(override, compose):
    with pytest.raises(ThinetError, match=WRONG[override]) as caught:
        check(compose("method=metaprune", override))
    assert str(caught.value).count(" type ") + str(caught.value).count("choose") >= 1


def test_nothing_is_left_to_do(compose, tmp_path):
    (tmp_path / "state.json").write_text("{}")
    own = ["method.start=training", f"method.of={tmp_path}"]
    check(compose("method=metaprune", *own))
    with pytest.raises(ThinetError, match="leaves nothing to do"):
        check(compose("method=metaprune", *own, "method.train=false"))


def test_settings_that_would_do_nothing_are_refused(compose, tmp_path):
    for name in ("state.json", "latency.json"):
        (tmp_path / name).write_text("{}")
    table = f"method.table={tmp_path / 'latency.json'}"
    check(compose("method=metaprune", table, "target=latency:0.5"))
    with pytest.raises(ThinetError, match=r"holds latencies, and target=flops:0.5 counts none"):
        check(compose("method=metaprune", table))
    own = ["method.start=search", f"method.of={tmp_path}"]
    with pytest.raises(ThinetError, match=r"proxy=prune trains nothing: type method.start=proxy"):
        check(compose("method=metaprune", "proxy=prune", *own))


@pytest.mark.parametrize(("proxy", "kind"), [("hypernet", Hypernet), ("shared", Shared)])
def test_the_proxy_is_the_one_that_is_named(proxy, kind, compose):
    _, method = build(check(compose("method=metaprune", f"proxy={proxy}")))
    assert isinstance(method, Metaprune)
    assert type(method.proxy) is kind
    assert method.proxy.making.generate == (proxy == "hypernet")


@pytest.mark.parametrize(("overrides", "said"), [
    (["target=flops:0.005"], "target=flops:0.005 is out of reach: .*can be had"),
    (["layers=[features.0]", "target=flops:0.2"], "out of reach"),
    (["search.scales=[10,100]", "layers=[features.0]", "target=flops:0.97",
      "search.tolerance=0.01"], "no widths are within the budget"),
    (["layers=[classifier]"], "classifier"),
    (["search.tied=[nothing*]"], "tied: 'nothing[*]' matches none of the layers"),
    (["proxy.build.blocks=[nothing]"], "blocks: 'nothing' is no module around one"),
    (["proxy.build.hidden={conv*:8}"], "has no glob that matches features.0.weight: add"),
    (["model=lenet5", "layers=[conv9]"], "matches no layer"),
])  # fmt: skip
def test_a_budget_or_layers_that_cannot_be_are_refused_on_paper(overrides, said, compose, plan_of):
    with pytest.raises(ThinetError, match=said):
        plan_of(compose("method=metaprune", *overrides))


def test_a_hypernetwork_that_does_not_fit_is_refused(compose, plan_of, monkeypatch):
    monkeypatch.setattr("thinet.search.memory.free_bytes", lambda device: 10_000)
    said = r"has .* M parameters .* are free: type proxy.build.hidden=8, .* or proxy=prune"
    with pytest.raises(ThinetError, match=said):
        plan_of(compose("method=metaprune"))
