"""What the boxes found, on disk after every row.

One file holds everything (``results.json``); beside it lie the same figures one a line
(``results.csv``) and the boxes one a line (``boxes.csv``). One process writes at a time.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.timing import Row, write_rows
from thinet.base.files import read_json, write_json_atomic

RUNNING = "running"


class Results:
    """The results below a folder.

    Args:
        folder: Made where it is missing; results that are there already are added to, and those of
            a box that begins again are replaced.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._path = folder / "results.json"

    def read(self) -> dict[str, Any]:
        """``about`` (a dictionary) and ``boxes`` (by name)."""
        if not self._path.exists():
            return {"about": {}, "boxes": {}}
        found: dict[str, Any] = read_json(self._path)
        return found

    def about(self, facts: Mapping[str, Any]) -> None:
        """Keep facts about the machine and the command."""
        found = self.read()
        found["about"] |= {key: plain_value(value) for key, value in facts.items()}
        write_json_atomic(self._path, found)

    def begin(self, box: str, limit: float) -> list[Row]:
        """A box begins, with nothing found.

        Returns:
            What it had found before, apart from errors.
        """
        found = self.read()
        before: list[Row] = found["boxes"].pop(box, {}).get("rows", [])
        found["boxes"][box] = {
            "status": RUNNING, "seconds": None, "limit": round(limit, 1), "error": None, "rows": []
        }  # fmt: skip
        self._write(found)
        return [row for row in before if not row.get("error")]

    def add(self, box: str, row: Row) -> None:
        """A box has found something."""
        found = self.read()
        found["boxes"][box]["rows"].append({key: plain_value(value) for key, value in row.items()})
        self._write(found)

    def fail(self, box: str, error: str) -> None:
        """A box says why it cannot go on."""
        found = self.read()
        found["boxes"][box]["error"] = error
        self._write(found)

    def end(self, box: str, status: str, seconds: float, error: str | None = None) -> None:
        """A box has ended, somehow; an error that it named itself is kept."""
        found = self.read()
        kept = found["boxes"][box]
        kept["status"], kept["seconds"] = status, round(seconds, 1)
        kept["error"] = kept["error"] or error
        self._write(found)

    def rows(self, box: str) -> list[Row]:
        """What a box has found."""
        rows: list[Row] = self.read()["boxes"].get(box, {}).get("rows", [])
        return rows

    def _write(self, found: dict[str, Any]) -> None:
        write_json_atomic(self._path, found)
        boxes = found["boxes"]
        lines = [
            {"box": name, **{key: value for key, value in box.items() if key != "rows"},
             "rows": len(box["rows"]), "rows_failed": failed(box["rows"])}
            for name, box in boxes.items()
        ]  # fmt: skip
        write_rows(self.folder / "boxes.csv", lines)
        cells = [
            {"box": name, "row": number, "key": key, "value": value}
            for name, box in boxes.items()
            for number, row in enumerate(box["rows"])
            for key, value in row.items()
        ]
        if cells:
            write_rows(self.folder / "results.csv", cells)


def failed(rows: list[Row]) -> int:
    """How many rows are errors."""
    return sum(bool(row.get("error")) for row in rows)


def plain_value(value: Any) -> Any:
    """A value as it is written: what JSON knows; numbers that are not finite as text."""
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    return value if value is None or isinstance(value, (int, str)) else str(value)
