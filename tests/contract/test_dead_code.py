"""Nothing in the package is there that nobody calls: vulture finds it by name."""

from __future__ import annotations

import re
from pathlib import Path

from vulture import Vulture

from thinet.report.sections import families

ROOT = Path(__file__).parents[2]
HOOKS = [
    "on_*", "*_step", "configure_optimizers", "load_state_dict",  # Lightning, Hydra and torch call
    "extra_repr",  # torch, when a module is printed
    "__getattr__", "__dir__",  # of a module
    "extra_repr",  # of a torch module
    "log_dir",  # which Lightning asks a logger for
    "_do",  # of an operator of pymoo
]  # fmt: skip
FOR_TESTS = {"why_frozen"}
"""What tests look at and nothing else needs."""
KINDS = {"function", "method", "class", "property", "import", "unreachable_code"}
"""Not variables and attributes: fields of dataclasses go to files, by whatever name they have."""


def named_in_conf() -> set[str]:
    """Classes and functions that a configuration names, or the group that they lie in."""
    text = "\n".join(path.read_text() for path in (ROOT / "conf").rglob("*.yaml"))
    return {name for dotted in re.findall(r"\bthinet\.[\w.]+", text) for name in dotted.split(".")}


def unused(*paths: Path) -> list[str]:
    finder = Vulture(ignore_names=HOOKS)
    finder.scavenge([str(path) for path in paths])
    by_module = {path.stem for path in ROOT.glob("experiments/on_gpu/boxes/*.py")}
    by_module |= {path.stem for path in ROOT.glob("thinet/*/*.py")}  # a function of that name
    pages = " ".join(path.read_text() for path in ROOT.glob("thinet/report/templates/*.jinja"))
    listed = {family.__name__ for family in families()}
    known = named_in_conf() | by_module | listed | set(re.findall(r"\w+", pages)) | FOR_TESTS
    return [
        f"{Path(item.filename).name}:{item.first_lineno} {item.typ} {item.name}"
        for item in finder.get_unused_code(min_confidence=60)
        if item.typ in KINDS and item.name not in known
    ]


def test_nothing_is_left_over():
    assert unused(ROOT / "thinet", ROOT / "run.py", ROOT / "experiments") == []


def test_it_would_be_seen(tmp_path):
    (tmp_path / "new.py").write_text("def helper():\n    return 1\n    print(2)\n")
    found = unused(tmp_path)
    assert [one.split(" ", 1)[1] for one in found] == [
        "function helper", "unreachable_code return",
    ]  # fmt: skip
