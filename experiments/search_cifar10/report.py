"""Tables and figures of a study of searched widths, of whatever has been measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy.stats import kendalltau

from experiments.cifar import beyond, mean_and_spread, read_rows
from experiments.search import (
    ARMS,
    FULL,
    HYPERNET,
    PROXIES,
    PRUNE,
    RANDOM,
    SHARED,
    THINET,
    TUNED,
    UNIFORM,
)
from thinet.report.style import (
    BLUE,
    GREEN,
    GRID,
    MUTED,
    PURPLE,
    VERMILLION,
    new_figure,
    percent_axis,
    save_png,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Row = Mapping[str, str]
NAMES = {
    HYPERNET: "PruningNet, evolution", SHARED: "shared weights, evolution",
    PRUNE: "one-shot pruning, evolution", RANDOM: "PruningNet, random search",
    UNIFORM: "uniform width", THINET: "ThiNet, allocation=error",
    TUNED: "ThiNet itself (trained twice)",
}  # fmt: skip
PROXY_NAMES = {HYPERNET: "PruningNet", SHARED: "shared weights", PRUNE: "one-shot pruning"}
COLORS = {UNIFORM: GREEN, THINET: PURPLE, TUNED: PURPLE}
DRAWINGS = 10_000
"""Of the bootstrap."""


def tables(folder: Path) -> str:
    """What was measured, in Markdown."""
    parts = (_accuracies(folder), _searches(folder), _taus(folder))
    return "\n\n".join(part for part in parts if part)


def draw(folder: Path) -> None:
    """``figure.png``: accuracy by arm; ``proxies.png``: what proxies say of random widths."""
    rows = read_rows(folder / "results.csv")
    budgets = _budgets(rows)
    if budgets:
        full = [float(row["test"]) for row in rows if row["arm"] == FULL]
        figure, axes = new_figure(
            5.2 * len(budgets) + 1.5, 3.9, "Where widths come from, trained alike",
            "test accuracy (small: a seed, large: mean); dashed: uniform width"
            + (f"; the full network has {np.mean(full):.1f} %" if full else ""), len(budgets),
        )  # fmt: skip
        for ax, budget in zip(axes, budgets, strict=True):
            _arms(ax, _by_arm(rows, budget), f"{100 * float(budget):g} % of the FLOPs")
        for ax in axes[1:]:
            ax.set_yticklabels([])
        save_png(figure, folder / "figure.png")
    known = {name: _pairs(folder, name) for name in PROXIES}
    known = {name: pair for name, pair in known.items() if len(pair[0]) > 1}
    if known:
        figure, axes = new_figure(
            4 * len(known), 3.9, "What judges widths, and what becomes of them",
            "random widths of equal FLOPs, one training each; tau with its 95 % interval",
            len(known),
        )  # fmt: skip
        for ax, (name, pair) in zip(axes, known.items(), strict=True):
            ax.plot(100 * pair[0], pair[1], "o", color=BLUE, markersize=5, alpha=0.8)
            ax.set_title(f"{PROXY_NAMES[name]}: tau {_tau(*pair)}", size=9.5, loc="left")
            ax.set_xlabel("error by the proxy")
            percent_axis(ax, "x")
            percent_axis(ax)
        axes[0].set_ylabel("test accuracy after training")
        save_png(figure, folder / "proxies.png")


def _arms(ax: Axes, by_arm: Mapping[str, Mapping[str, Row]], title: str) -> None:
    for place, arm in enumerate(ARMS):
        found = np.array([float(row["test"]) for row in by_arm.get(arm, {}).values()])
        if not len(found):
            continue
        color = COLORS.get(arm, BLUE)
        ax.plot([found.min(), found.max()], [place] * 2, color=GRID, linewidth=3, zorder=1)
        ax.plot(found, [place] * len(found), "o", color=color, markersize=3.5, alpha=0.7)
        filled = VERMILLION if arm == TUNED else "none"
        ax.plot(found.mean(), place, "o", color=color, markersize=8, markerfacecolor=filled)
        if arm == UNIFORM:
            ax.axvline(found.mean(), color=MUTED, linewidth=0.9, linestyle="--", zorder=0)
    ax.set_yticks(range(len(ARMS)), [NAMES[arm] for arm in ARMS])
    ax.set_ylim(len(ARMS) - 0.4, -0.6)
    ax.set_title(title, size=9.5, loc="left")
    percent_axis(ax, "x")


def _accuracies(folder: Path) -> str:
    rows = read_rows(folder / "results.csv")
    lines: list[str] = []
    longer = read_rows(folder / "longer.csv")
    parts = [(rows, budget, "") for budget in _budgets(rows)]
    parts += [(longer, budget, ", twice as many epochs") for budget in _budgets(longer)]
    for some_rows, budget, how in parts:
        by_arm = _by_arm(some_rows, budget)
        lines += [
            f"**{100 * float(budget):g} % of the FLOPs{how}.**", "",
            "| widths from | seeds | test % | beyond uniform (paired) | MFLOPs | parameters |",
            "|---|---|---|---|---|---|",
        ]  # fmt: skip
        for arm, mine in by_arm.items():
            some = next(iter(mine.values()))
            test = mean_and_spread([float(row["test"]) for row in mine.values()])
            even = by_arm.get(UNIFORM, {})
            paired = arm != UNIFORM and set(mine) & set(even)
            more = beyond(mine, even, "test") if paired else ""
            lines.append(f"| {NAMES[arm]} | {len(mine)} | {test} | {more} "
                         f"| {float(some['mflops']):.2f} | {int(some['params']):,} |")  # fmt: skip
        lines.append("")
    full = [row for row in rows if row["arm"] == FULL]
    if full:
        test = mean_and_spread([float(row["test"]) for row in full])
        lines.append(f"The full network: {test} % ({float(full[0]['mflops']):.2f} MFLOPs, "
                     f"{int(full[0]['params']):,} parameters).")  # fmt: skip
    return "\n".join(lines).strip()


def _searches(folder: Path) -> str:
    rows = read_rows(folder / "searches.csv")
    training = {row["proxy"]: float(row["seconds"]) for row in read_rows(folder / "proxies.csv")}
    lines = [
        "| widths from | FLOPs | error by the proxy | of uniform width | candidates "
        "| training, s | before the first, s | search, s | widths |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        proxy = HYPERNET if row["arm"] == RANDOM else row["arm"]
        errors = [f"{100 * float(row[key]):.2f}" if row[key] else ""
                  for key in ("error", "uniform_error")]  # fmt: skip
        seconds = [f"{float(row[key]):.1f}" if row[key] else ""
                   for key in ("prepare_seconds", "search_seconds")]  # fmt: skip
        cells = [
            NAMES[row["arm"]], f"{100 * float(row['budget']):g} %", *errors, row["evaluations"],
            f"{training[proxy]:.0f}" if proxy in training else "", *seconds, row["counts"],
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) if rows else ""


def _taus(folder: Path) -> str:
    lines = ["| judged by | widths | Kendall's tau to the test accuracy, 95 % interval | "
             "tau to another seed's |", "|---|---|---|---|"]  # fmt: skip
    for name in PROXIES:
        error, test = _pairs(folder, name)
        other = _pairs(folder, name, "1")
        if len(error) > 1:
            again = _tau(*other) if len(other[0]) > 2 else ""
            lines.append(f"| {PROXY_NAMES[name]} | {len(error)} | {_tau(error, test)} | {again} |")
    ceiling = _seeds(folder)
    if len(ceiling[0]) > 2:
        # The sign of an error: accuracies agree where tau to the other's error is positive.
        lines.append(f"| one training with another seed | {len(ceiling[0])} | {_tau(*ceiling)} | |")
    return "\n".join(lines) if len(lines) > 2 else ""


def _pairs(folder: Path, proxy: str, seed: str = "0") -> tuple[np.ndarray, np.ndarray]:
    """Errors by a proxy, and test accuracies, of the widths that have been trained."""
    said = [row for row in read_rows(folder / "judged.csv") if row["proxy"] == proxy]
    rows = [row for row in read_rows(folder / "vectors.csv") if row["seed"] == seed]
    if not said:
        rows = []
    errors = [float(word) for word in said[0]["errors"].split()] if said else []
    return (np.array([errors[int(row["vector"])] for row in rows]),
            np.array([float(row["test"]) for row in rows]))  # fmt: skip


def _seeds(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Errors and accuracies of the same widths, trained with two seeds."""
    rows = read_rows(folder / "vectors.csv")
    by_seed = {seed: {row["vector"]: float(row["test"]) for row in rows if row["seed"] == seed}
               for seed in ("0", "1")}  # fmt: skip
    both = [one for one in by_seed["0"] if one in by_seed["1"]]
    return (np.array([100 - by_seed["1"][one] for one in both]),
            np.array([by_seed["0"][one] for one in both]))  # fmt: skip


def _tau(errors: np.ndarray, accuracies: np.ndarray) -> str:
    """Kendall's tau of accuracies with the negative errors, and a bootstrap's interval."""
    found = kendalltau(-errors, accuracies).statistic
    rng = np.random.default_rng(0)
    drawn = [rng.integers(len(errors), size=len(errors)) for _ in range(DRAWINGS)]
    again = [_fast_tau(-errors[which], accuracies[which]) for which in drawn]
    low, high = np.nanpercentile(again, [2.5, 97.5]) if len(errors) > 3 else (np.nan, np.nan)
    return f"{found:.2f} ({low:.2f} to {high:.2f})"


def _fast_tau(left: np.ndarray, right: np.ndarray) -> float:
    """Tau b, as scipy's, which takes a millisecond a time."""
    upper = np.triu_indices(len(left), 1)
    one, two = (np.sign(np.subtract.outer(each, each))[upper] for each in (left, right))
    scale = np.sqrt(np.count_nonzero(one) * np.count_nonzero(two))
    return float((one * two).sum() / scale) if scale else float("nan")


def _budgets(rows: Sequence[Row]) -> list[str]:
    found = {row["budget"] for row in rows if row["arm"] != FULL}
    return sorted(found, key=float, reverse=True)


def _by_arm(rows: Sequence[Row], budget: str) -> dict[str, dict[str, Row]]:
    """By arm and seed, in the order of the arms."""
    found: dict[str, dict[str, Row]] = {}
    for arm in ARMS:
        mine = [row for row in rows if row["arm"] == arm and row["budget"] == budget]
        if mine:
            found[arm] = {row["seed"]: row for row in mine}
    return found
