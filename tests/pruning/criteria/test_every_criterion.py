"""What all criteria have in common; new ones are found by listing ``conf/criterion``."""

from __future__ import annotations

import inspect
from dataclasses import is_dataclass
from pathlib import Path

import pytest
import torch
import yaml

import thinet.pruning.criteria
from thinet.pruning.criteria import Criterion
from thinet.pruning.group import Ranked
from thinet.pruning.statistics import Evidence

KINDS = ["plain", "coupled", "several"]
FILES = sorted((Path(__file__).parents[3] / "conf" / "criterion").glob("*.yaml"))
ORDERED = [file.stem for file in FILES if file.stem != "random"]  # they do not draw
ELIMINATE = {"thinet", "thinet_refit"}  # of equal units the lowest is removed first


def test_every_exported_criterion_has_a_yaml_of_its_own():
    targets = [yaml.safe_load(file.read_text())["build"]["_target_"] for file in FILES]
    exported = [getattr(thinet.pruning.criteria, name) for name in thinet.pruning.criteria.__all__]
    criteria = [
        f"{one.__module__}.{one.__name__}"
        for one in exported
        if inspect.isclass(one) and issubclass(one, Criterion) and one is not Criterion
    ]
    assert sorted(targets) == sorted(criteria)
    assert len(targets) >= 12
    for file, target in zip(FILES, targets, strict=True):
        assert target.split(".")[-2] == file.stem == yaml.safe_load(file.read_text())["name"]


@pytest.mark.parametrize("kind", KINDS)
def test_it_ranks_all_units_once_and_repeats_itself(criterion, make_case, kind):
    case = make_case(kind, dead=(3,))
    ranked = criterion.rank(case.candidates(), case.evidence(), 5)
    assert ranked.dtype == torch.int64
    assert ranked.device.type == "cpu"
    assert sorted(ranked.tolist()) == list(range(case.units))
    assert torch.equal(ranked, criterion.rank(case.candidates(), case.evidence(), 5))
    for count in range(1, case.units + 1):
        kept = Ranked(ranked, case.evidence()).kept(count)
        assert kept.dtype == torch.int64
        assert kept.tolist() == sorted(ranked[:count].tolist())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dead", [(0,), (2, 7), (9, 10, 11)])
def test_dead_units_come_last(criterion, make_case, kind, dead):
    case = make_case(kind, dead=dead)
    ranked = criterion.rank(case.candidates(), case.evidence(), 3).tolist()
    assert set(ranked[-len(dead) :]) == set(dead)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ORDERED, indirect=True)
def test_it_follows_a_permutation_of_the_units(criterion, make_case, kind):
    for seed in range(5):
        case = make_case(kind, dead=(4,), seed=seed)
        order = torch.randperm(case.units, generator=torch.Generator().manual_seed(seed))
        ranked = criterion.rank(case.candidates(), case.evidence(), 0)
        turned = case.relabelled(order)
        assert torch.equal(order[criterion.rank(turned.candidates(), turned.evidence(), 0)], ranked)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ORDERED, indirect=True)
def test_ties_go_to_the_lowest_index(name, criterion, make_case, kind):
    case = make_case(kind, alike=True)
    ranked = criterion.rank(case.candidates(), case.evidence(), 0).tolist()
    expected = list(range(case.units))
    assert ranked == (expected[::-1] if name in ELIMINATE else expected)


def test_neither_weights_nor_evidence_change(criterion, make_case):
    case, other = make_case("coupled", dead=(1,)), make_case("coupled", dead=(1,))
    candidates, evidence = case.candidates(), case.evidence()
    criterion.rank(candidates, evidence, 0)
    for found, before in zip(candidates.filters, other.filters, strict=True):
        assert torch.equal(found.value, before.value)
    for (_, weight), reader in zip(candidates.readers, other.readers, strict=True):
        assert torch.equal(weight, reader.weight)
    for kind in criterion.needs:
        for found, before in zip(evidence[kind], other.evidence()[kind], strict=True):
            torch.testing.assert_close(plain(found), plain(before), rtol=0, atol=0)


def plain(found):
    """What ``assert_close`` of every version of torch can compare."""
    if isinstance(found, dict):
        return {name: plain(value) for name, value in found.items()}
    if is_dataclass(found):
        return {name: value for name, value in vars(found).items() if value is not None}
    return found


def test_it_needs_what_it_says(criterion, make_case):
    case = make_case("plain")
    full = case.evidence()
    only = Evidence({kind: full[kind] for kind in criterion.needs})
    ranked = criterion.rank(case.candidates(), only, 1)
    assert torch.equal(ranked, criterion.rank(case.candidates(), full, 1))
    if criterion.needs:
        with pytest.raises(KeyError):
            criterion.rank(case.candidates(), Evidence(), 1)
