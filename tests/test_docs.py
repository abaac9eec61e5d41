"""The documents name tests, files and options that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted(
    path
    for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("experiments/**/*.md"))
    if ".venv" not in path.parts
)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_named_tests_exist(document: Path) -> None:
    for file, name in re.findall(r"`(tests/[\w/.]+\.py)(?:::(\w+))?`", document.read_text()):
        assert (ROOT / file).exists(), f"{document}: {file}"
        assert not name or f"def {name}(" in (ROOT / file).read_text(), f"{document}: {name}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    text = re.sub(r"```.*?```", "", document.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#]+)\)", text) + re.findall(r'<img src="([^"]+)"', text):
        if not target.startswith("http"):
            assert (document.parent / target).exists(), f"{document}: {target}"
