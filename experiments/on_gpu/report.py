"""Tables and figures of what the boxes found.

Usage: python -m experiments.on_gpu.report DIR      (a folder of results; run.py does it by itself)
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.cifar import mean_and_spread
from experiments.on_gpu.results import Results, failed
from experiments.slim_speed.run import draw_bars
from experiments.timing import Row, markdown
from thinet.base.files import write_text_atomic
from thinet.report.style import BLUE, GRID, INK, SKY, new_figure, save_png


def write(folder: Path) -> None:
    """Write ``tables.md``, and ``slim.png`` and ``peers.png`` where there is something to draw."""
    found = Results(folder).read()
    write_text_atomic(folder / "tables.md", tables(found))
    boxes = found["boxes"]
    where = str(found["about"].get("device", "unknown device"))
    for name, draw, figure in (("slim", draw_slim, "share"), ("peers", draw_peers, "test")):
        rows = [row for row in boxes.get(name, {}).get("rows", []) if figure in row]
        if rows:
            draw(rows, where, folder / f"{name}.png")


def tables(found: dict[str, Any]) -> str:
    """Everything as markdown: the machine, the boxes, and the rows of each."""
    about, boxes = found["about"], found["boxes"]
    text = ["; ".join(f"{key} {value}" for key, value in about.items()), ""]
    overview = [
        {"box": name, **box, "rows": len(box["rows"]), "failed": failed(box["rows"])}
        for name, box in boxes.items()
    ]
    columns = ("box", "status", "seconds", "limit", "rows", "failed", "error")
    text += [_table(overview, columns), ""]
    for name, box in boxes.items():
        if box["rows"] and name != "machine":
            keys = list(dict.fromkeys(key for row in box["rows"] for key in row))
            text += [f"**{name}**", "", _table(box["rows"], keys), ""]
    return "\n".join(text)


def _table(rows: Sequence[Row], keys: Sequence[str]) -> str:
    shown = [{key: _short(value) for key, value in row.items()} for row in rows]
    return markdown(shown, {key: key.replace("_", " ") for key in keys})


def _short(value: Any) -> Any:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if value is None else str(value).replace("|", "/")


def draw_slim(rows: Sequence[Row], where: str, path: Path) -> None:
    """Bars: measured speed-up; a mark each: what the FLOPs promise."""
    names = [
        f"{row['network']}, batch {row['batch']}, {row['arithmetic']}"
        + (", channels_last" if row["layout"] == "channels_last" else "")
        + (", compiled" if row["mode"] == "compile" else "")
        for row in rows
    ]
    draw_bars(rows, names, f"speed-up of the slim network; light: with backward; {where}", path)


def draw_peers(rows: Sequence[Row], where: str, path: Path) -> None:
    """Test accuracy of each variant, before fine-tuning and after, a point a seed."""
    names = list(dict.fromkeys(row["variant"] for row in rows))
    figure, (ax,) = new_figure(
        7.6, 1.6 + 0.4 * len(names), "ResNet-56 at half its FLOPs, fine-tuned for whole epochs",
        f"test accuracy on the JPEG copy of CIFAR-10, {rows[0]['epochs']} epochs; {where}",
    )  # fmt: skip
    for place, name in zip(range(len(names))[::-1], names, strict=True):
        own = [row for row in rows if row["variant"] == name]
        for key, color in (("test", SKY), ("test_finetuned", BLUE)):
            values = [row[key] for row in own]
            ax.scatter(values, [place] * len(values), color=color, s=26)
        best = [row["test_finetuned"] for row in own]
        ax.annotate(
            mean_and_spread(best), (max(best), place), xytext=(7, 0), textcoords="offset points",
            va="center", size=8, color=INK,
        )  # fmt: skip
    ax.set_yticks(range(len(names))[::-1], names, size=8.5)
    ax.set_ylim(-0.6, len(names) - 0.4)
    ax.margins(x=0.15)
    ax.set_xlabel("percent; light: recalibrated, before fine-tuning")
    ax.grid(axis="x", color=GRID, linewidth=0.8)
    save_png(figure, path)


def main() -> None:
    """Write tables and figures of a folder, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    write(folder)
    print((folder / "tables.md").read_text())


if __name__ == "__main__":
    main()
