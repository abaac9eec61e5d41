"""Draw ``figure.png`` from ``results.csv``: resident memory over stages and over points."""

from __future__ import annotations

import csv
from pathlib import Path

from thinet.report.style import BLUE, ORANGE, SKY, EndLabel, label_ends, new_figure, save_png

HERE = Path(__file__).parent
COLORS = {"stages": ORANGE, "sweep, csv": BLUE, "sweep, wandb": SKY}
NAMES = {
    "stages": "one run, stages",
    "sweep, csv": "a sweep, points",
    "sweep, wandb": "a sweep with W&B, points",
}


def main() -> None:
    """Draw it."""
    with open(HERE / "results.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    figure, (ax,) = new_figure(9, 4.2, "Memory held by the process", "digits, resident set in MB")
    ends = []
    for part, color in COLORS.items():
        own = [row for row in rows if row["part"] == part]
        if own:
            x = [int(row["place"]) for row in own]
            y = [float(row["resident_mb"]) for row in own]
            ax.plot(x, y, color=color, linewidth=2.0)
            ends.append(EndLabel(x[-1], y[-1], NAMES[part], color))
    ax.set_ylim(0, 1.15 * max(end.y for end in ends))
    ax.set_xlabel("stages of a run, or points of a sweep, that are finished")
    ax.set_ylabel("MB")
    label_ends(ax, ends)
    save_png(figure, HERE / "figure.png")


if __name__ == "__main__":
    main()
