"""Draw ``figure.png`` from the results: when each trial was killed, who, and how it ended."""

from __future__ import annotations

import csv
from pathlib import Path

from thinet.report.style import BLUE, ORANGE, SKY, new_figure, save_png

HERE = Path(__file__).parent
VICTIMS = {
    "group": ("all processes", "o", BLUE),
    "first": ("the first process", "s", ORANGE),
    "second": ("the second process", "^", SKY),
}
LANES = {"1": "one process", "2": "two processes (DDP)"}


def main() -> None:
    """Draw it."""
    rows = []
    for name in LANES:
        with open(HERE / f"results_{name}.csv", newline="") as file:
            rows += list(csv.DictReader(file))
    same = sum(row["same_weights"] == row["same_figures"] == "True" for row in rows)
    figure, (ax,) = new_figure(
        9, 3.2, f"{same} of {len(rows)} killed runs ended in the same bits",
        "the default run, SIGKILL at a random moment, the command repeated; crossed: other bits",
    )  # fmt: skip
    for victim, (label, marker, color) in VICTIMS.items():
        own = [row for row in rows if row["victim"] == victim]
        x = [100 * float(row["killed_after"]) / float(row["of_seconds"]) for row in own]
        y = [
            list(LANES).index(row["processes"]) + (int(row["trial"]) % 5 - 2) * 0.11 for row in own
        ]
        ax.scatter(x, y, marker=marker, color=color, label=label, s=42, edgecolors="white")
        for place, row in enumerate(own):
            if row["same_weights"] != "True" or row["same_figures"] != "True":
                ax.plot(x[place], y[place], marker="x", color="black", markersize=12)
    ax.set_yticks(range(len(LANES)), list(LANES.values()))
    ax.set_ylim(-0.6, len(LANES) - 0.4)
    ax.set_xlim(0, 100)
    ax.set_xlabel("moment of the kill, % of the length of an undisturbed run")
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.22), ncols=3, frameon=False)
    save_png(figure, HERE / "figure.png")


if __name__ == "__main__":
    main()
