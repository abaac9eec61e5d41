"""What the studies of searched widths are built of."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import kendalltau
from torch import nn

from experiments.cifar import Images, noise, read_rows
from experiments.search import ARMS, TUNED, Shuffled, Sizes, Study
from experiments.search_cifar10 import report
from experiments.search_units import Unit, _measure, collect, fill, units
from thinet.models.small_vgg import vgg_small
from thinet.search.plan import make_task
from thinet.search.settings import Searching

SIZES = Sizes(1, population=2, generations=2, judging=16, calibration=16, vectors=3)


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return Study(noise(64, 16), lambda: vgg_small(10, 16, widths=(4, 8)), tmp_path, SIZES)


def numbered(count: int) -> Images:
    """Every pixel another value: columns fall, so that a mirrored image is known."""
    pixels = torch.arange(1, 4 * 4 * 3 + 1, dtype=torch.uint8).view(1, 3, 4, 4)
    return Images(pixels.expand(count, -1, -1, -1).clone(), torch.arange(count))


def test_training_images_are_shifted_and_mirrored_alike_for_one_seed() -> None:
    plain = numbered(64)
    first, again = (Shuffled(plain, 16, 0, shift=1, flip=True) for _ in range(2))
    one, same, other = list(first), list(again), list(first)
    assert all(torch.equal(a[0], b[0]) for a, b in zip(one, same, strict=True))
    assert not torch.equal(torch.cat([y for _, y in one]), torch.cat([y for _, y in other]))
    assert sorted(torch.cat([y for _, y in one]).tolist()) == list(range(64))
    generator = torch.Generator().manual_seed(0)
    moved = first._moved(plain.pixels, generator)
    padded = torch.nn.functional.pad(plain.pixels[0], [1] * 4)
    wanted = [padded[:, y : y + 4, x : x + 4] for y in range(3) for x in range(3)]
    wanted += [one.flip(2) for one in wanted]
    places = [[torch.equal(image, one) for one in wanted].index(True) for image in moved]
    assert len(set(places)) > 12


def test_all_arms_of_a_seed_see_the_same_batches(study: Study) -> None:
    left, right = (torch.cat([y for _, y in study.batches(1)]) for _ in range(2))
    assert torch.equal(left, right)
    assert not torch.equal(left, torch.cat([y for _, y in study.batches(2)]))


def test_every_layer_but_the_last_may_shrink(study: Study) -> None:
    study.train_full(0)
    layers = {"features.0", "features.3", "features.7", "features.10"}
    assert set(study.task.space.names) == layers
    trained, _ = make_task(study.trained(), study.images, "all", Searching())
    assert set(trained.space.names) == layers
    assert set(study.thinet(0.5)["counts"]) == layers


def test_random_widths_are_different_and_of_one_cost(study: Study) -> None:
    found = study.vectors(0.5)
    assert len(set(found)) == 3
    assert all(study.problem(0.5).feasible(genes) for genes in found)
    assert found == study.vectors(0.5)


def test_what_another_process_works_on_is_left_to_it(tmp_path: Path) -> None:
    done: list[str] = []
    unit = Unit("one", (), lambda: {"did": done.append("one")})
    holder = os.open(tmp_path / "one.lock", os.O_WRONLY | os.O_CREAT)
    fcntl.flock(holder, fcntl.LOCK_EX)
    assert not _measure(tmp_path, unit)
    os.close(holder)
    assert _measure(tmp_path, unit)
    assert not _measure(tmp_path, unit), "nor is it measured twice"
    assert done == ["one"]


def test_what_is_needed_is_measured_first_and_nothing_twice(tmp_path: Path) -> None:
    done: list[str] = []
    todo = [Unit(name, needs, lambda name=name: {"did": done.append(name)})
            for name, needs in (("second", ("first",)), ("first", ()))]  # fmt: skip
    fill(tmp_path, todo)
    fill(tmp_path, todo)
    assert done == ["first", "second"]


def test_needs_come_before_what_needs_them(study: Study) -> None:
    todo = units(study, [0.5, 0.25], [0, 1, 2])
    names = [one.name for one in todo]
    assert len(set(names)) == len(names)
    assert all(names.index(need) < place for place, one in enumerate(todo) for need in one.needs)
    finals = {name for name in names if name.startswith("final-")}
    assert len(finals) == 2 * 3 * len(ARMS)


def test_thinet_itself_begins_with_what_it_has_learnt(study: Study) -> None:
    study.train_full(0)
    for arm, found in (("thinet", study.thinet(0.5)), ("uniform", study.even(0.5))):
        (study.folder / f"search-{arm}-0.5.json").write_text(json.dumps(found))
    seen: list[nn.Module] = []
    study.trained_from = lambda network, seed, rate, times: seen.append(network) or {}  # type: ignore
    study.final(TUNED, 0.5, 1)
    kept = torch.load(study.folder / "thinet-0.5.pt")
    assert all(torch.equal(one, kept[name]) for name, one in seen[0].state_dict().items())
    study.final("thinet", 0.5, 1)
    assert [one.shape for one in seen[1].parameters()] == [
        one.shape for one in seen[0].parameters()
    ]
    assert not torch.equal(seen[0].features[0].weight, seen[1].features[0].weight)


def test_tau_is_scipys() -> None:
    rng = np.random.default_rng(0)
    left, right = rng.integers(5, size=12), rng.random(12)
    assert report._fast_tau(left, right) == pytest.approx(kendalltau(left, right).statistic)
    text = report._tau(-right, right)
    assert text == "1.00 (1.00 to 1.00)"


def test_tables_pair_accuracies_with_errors(study: Study, tmp_path: Path) -> None:
    write = {"judged-prune": {"proxy": "prune", "budget": 0.5, "errors": [0.5, 0.4, 0.3]}}
    for k, test in ((0, 60.0), (2, 70.0)):
        write[f"vector-{k}-0.5-0"] = {"vector": k, "budget": 0.5, "seed": 0, "test": test}
    for name, found in write.items():
        (study.folder / f"{name}.json").write_text(json.dumps(found))
    out = tmp_path / "out"
    collect(study, units(study, [0.5], [0]), out)
    assert len(read_rows(out / "vectors.csv")) == 2
    errors, accuracies = report._pairs(out, "prune")
    assert errors.tolist() == [0.5, 0.3]
    assert accuracies.tolist() == [60.0, 70.0]
    assert "| one-shot pruning | 2 | 1.00" in report.tables(out)
