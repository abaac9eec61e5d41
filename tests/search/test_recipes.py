"""The paper's recipes, planned at their full size: its groups, its hypernetworks, its budgets."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.app.test_recipes import EVERY

CONF = Path(__file__).parents[2] / "conf" / "experiment"
RECIPES = [name for name in EVERY if name.startswith("metaprune")]
PUBLISHED = {  # genes, M parameters of the hypernetwork, M MACs; epochs, rates and decays
    "metaprune_mobilenet_v1_imagenet": (13, 106.1, (324, 149, 41), (64, 0.25, 256, 0.25, 4e-5)),
    "metaprune_mobilenet_v2_imagenet": (25, 242.0, (303, 140, 43), (64, 0.25, 256, 0.25, 0.0)),
    "metaprune_resnet50_imagenet": (20, 776.1, (3000, 2000, 1000), (32, 0.1, 128, 0.1, 1e-4)),
}


def test_every_network_has_its_recipe():
    assert set(RECIPES) == set(PUBLISHED)


@pytest.mark.parametrize("name", RECIPES)
def test_it_is_the_papers(name, compose, plan_of, monkeypatch):
    monkeypatch.setattr("thinet.search.memory.free_bytes", lambda device: 2**34)
    genes, million, budgets, settings = PUBLISHED[name]
    cfg = compose(f"experiment={name}", f"target=macs:{budgets[-1]}M")  # the smallest one
    plan = plan_of(cfg)
    assert plan.space.size == genes
    assert plan.hypernet / 1e6 == pytest.approx(million, abs=0.05)
    assert (cfg.search.generations, cfg.search.population, cfg.search.calibration) == (
        20, 50, 20_000
    )  # fmt: skip
    proxy, baseline = cfg.proxy, cfg.baseline
    assert (proxy.epochs, proxy.lr, baseline.epochs, baseline.lr,
            proxy.optimizer.weight_decay) == settings  # fmt: skip
    assert plan.problem.window.high * plan.full.macs / 1e6 == pytest.approx(budgets[-1])
    text = (CONF / f"{name}.yaml").read_text()
    assert ",".join(f"macs:{one}M" for one in budgets) in text.replace(".0G", "000M")
