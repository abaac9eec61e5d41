"""What the import contract cannot say: who cuts, who builds a Trainer, what an import costs."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "thinet").rglob("*.py"))
WIDTHS = {
    "in_channels", "out_channels", "in_features", "out_features", "num_features", "groups",
}  # fmt: skip


def room(file: Path) -> str:
    return file.relative_to(ROOT / "thinet").parts[0]


def called(tree: ast.AST) -> Iterator[str]:
    """The last word of everything that is called."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            function = node.func
            yield (
                function.attr
                if isinstance(function, ast.Attribute)
                else getattr(function, "id", "")
            )


def assigned(tree: ast.AST) -> Iterator[str]:
    """The last word of every attribute that something is written to, but for what makes itself."""
    own = {
        node
        for made in ast.walk(tree)
        if isinstance(made, ast.FunctionDef) and made.name == "__init__"
        for node in ast.walk(made)
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "self"
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and node not in own:
            yield node.attr


def breaches(rule: str, source: str) -> list[str]:
    tree = ast.parse(source)
    if rule == "surgery":  # widths of modules are written there alone
        return sorted({*assigned(tree)} & WIDTHS)
    if rule == "quantization":  # modules are put in the place of others there alone
        written = [
            ast.unparse(node)
            for node in ast.walk(tree)
            if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store)
            and ast.unparse(node.value).endswith("._modules")
        ]  # fmt: skip
        return written + sorted({*called(tree)} & {"set_submodule", "_replace_module"})
    return sorted({*called(tree)} & {"Trainer"})


@pytest.mark.parametrize("rule", ["surgery", "quantization", "engine"])
def test_only_one_room_does_it(rule):
    found = {
        str(file.relative_to(ROOT)): names
        for file in FILES
        if room(file) != rule and (names := breaches(rule, file.read_text()))
    }
    assert found == {}


@pytest.mark.parametrize(
    ("rule", "line"),
    [
        ("surgery", "module.out_channels = 3"), ("surgery", "net.fc.in_features -= 1"),
        ("quantization", "parent._modules['x'] = new"), ("quantization", "a.set_submodule('b', c)"),
        ("engine", "Trainer(max_epochs=1)"), ("engine", "pl.Trainer()"),
    ],
)  # fmt: skip
def test_a_breach_is_seen(rule, line):
    assert breaches(rule, line)


def test_the_rooms_that_may_do_it_do_it():
    """Else the rules look for the wrong words."""
    trainers = [file for file in FILES if breaches("engine", file.read_text())]
    assert {room(file) for file in trainers} == {"engine"}
    cutters = [file for file in FILES if "set_widths_" in called(ast.parse(file.read_text()))]
    assert {room(file) for file in cutters} == {"surgery", "artifacts"}


def test_there_are_few_loose_modules():
    loose = {file.name for file in (ROOT / "thinet").glob("*.py")}
    assert loose <= {"__init__.py", "cli.py", "__main__.py"}


LIBRARIES = (
    "pytorch_lightning",
    "lightning_fabric",
    "hydra",
    "omegaconf",
    "wandb",
)  # torchmetrics has matplotlib
USE = """
import torch
from torch import nn
torch.manual_seed(0)
layers = [nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.Flatten(), nn.Linear(16, 2)]
net = nn.Sequential(*layers)
result = thinet.prune(net, [torch.randn(8, 3, 6, 6)])
import tempfile
with tempfile.TemporaryDirectory() as folder:
    thinet.load(thinet.save(result, folder), net)
thinet.cost(net, (3, 6, 6))
"""


@pytest.mark.parametrize(
    ("code", "absent"),
    [("", ("torch", "numpy", *LIBRARIES)), (USE, LIBRARIES), ("thinet.report", ("torch",))],
    ids=["import", "use", "report"],
)
def test_nothing_is_imported_that_is_not_needed(code, absent):
    first = "import thinet.report" if code == "thinet.report" else "import thinet"
    code = "" if code == "thinet.report" else code
    last = f"import sys; print(sorted(set({absent!r}) & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", "\n".join((first, code, last))],
        capture_output=True, text=True, cwd=ROOT, timeout=120, check=False,
    )  # fmt: skip
    assert done.stdout == "[]\n", done.stderr
