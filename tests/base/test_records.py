"""Dataclasses to JSON and back: nothing is lost, and nothing of another form gets in."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field

import pytest

from thinet.base.records import JSON, from_json, to_json


@dataclass(frozen=True)
class Leaf:
    name: str
    size: float | None = None


@dataclass
class Tree:
    count: int
    leaves: tuple[Leaf, ...] = ()
    by_name: dict[str, Leaf] = field(default_factory=dict)
    pairs: list[tuple[int, Leaf]] = field(default_factory=list)
    best: Leaf | None = None
    free: dict[str, JSON] = field(default_factory=dict)
    done: bool = False


FULL = Tree(
    3, (Leaf("a", 0.5), Leaf("b")), {"c": Leaf("c", 1e-30)}, [(1, Leaf("d", 2.0))], Leaf("e"),
    {"x": [1, None, {"y": "z"}], "t": True}, True,
)  # fmt: skip


@pytest.mark.parametrize("record", [FULL, Tree(0)])
def test_what_is_written_is_read_back(record):
    content = to_json(record)
    assert json.loads(json.dumps(content)) == content, "plain containers alone"
    assert from_json(Tree, content) == record
    assert from_json(Tree, json.loads(json.dumps(content))) == record


def test_a_number_that_is_none_comes_back():
    found = from_json(Leaf, json.loads(json.dumps(to_json(Leaf("a", math.nan)))))
    assert math.isnan(found.size)
    assert from_json(Leaf, to_json(Leaf("a", math.inf))).size == math.inf


def test_a_field_that_is_missing_has_its_default():
    assert from_json(Tree, {"count": 2}) == Tree(2)


@pytest.mark.parametrize(
    ("content", "field"),
    [
        ({}, "count"),
        ({"count": "3"}, "count"),
        ({"count": True}, "count"),
        ({"count": 1.5}, "count"),
        ({"count": None}, "count"),
        ({"count": 1, "typo": 2}, "typo"),
        ({"count": 1, "done": 1}, "done"),
        ({"count": 1, "leaves": {"name": "a"}}, "leaves"),
        ({"count": 1, "leaves": [{"name": "a"}, {"size": 1}]}, r"leaves\.1\.name"),
        ({"count": 1, "leaves": [{"name": "a", "size": "1"}]}, r"leaves\.0\.size"),
        ({"count": 1, "leaves": [{"name": "a", "other": 1}]}, r"leaves\.0\.other"),
        ({"count": 1, "by_name": {"c": 3}}, r"by_name\.c"),
        ({"count": 1, "pairs": [[1]]}, r"pairs\.0"),
        ({"count": 1, "best": []}, "best"),
        ([], ""),
        (None, ""),
        ("text", ""),
    ],
)
def test_anything_else_is_refused_in_one_line_that_names_the_field(content, field):
    with pytest.raises(ValueError, match=f"^{field}") as caught:
        from_json(Tree, content)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) > 5
