"""Is ThiNet's selection a bottleneck? Gram and greedy against a bare product and the paper's loop.

Usage: python -m experiments.selection_speed.run [--rows 100000] [--channels 64 128 256 512]
"""

from __future__ import annotations

import argparse
import csv
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch import Tensor

from experiments.smoke import parse
from thinet.pruning.criteria import greedy_removal
from thinet.pruning.statistics import ContributionMoments
from thinet.report.style import BLUE, GREEN, GRID, VERMILLION, new_figure, save_png

HERE = Path(__file__).parent
BLOCK = 640
"""Rows that reach the statistic at once: 64 images with 10 locations each."""
PATIENCE = 20.0
"""Seconds that the paper's loop may take before it is cut short and extrapolated."""


def samples(rows: int, channels: int, seed: int) -> Tensor:
    """Contributions like a layer's: correlated, rectified, one random weight an entry."""
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(rows, 32, generator=generator, dtype=torch.float64)
    mixing = torch.randn(32, channels, generator=generator, dtype=torch.float64)
    noise = torch.randn(rows, channels, generator=generator, dtype=torch.float64)
    weights = torch.randn(rows, channels, generator=generator, dtype=torch.float64)
    return (hidden @ mixing / 32**0.5 + noise).relu_().mul_(weights)


def seconds(function: Callable[[], object]) -> float:
    """CPU seconds of this process, which other processes on the machine do not add to."""
    start = time.process_time()
    function()
    return time.process_time() - start


def bare_numpy(X: Tensor) -> object:
    """X^T X at once; numpy sees the symmetry and does half of the arithmetic."""
    array = X.numpy()
    return array.T @ array


def bare_torch(X: Tensor) -> object:
    """X^T X at once as a general product."""
    return X.T @ X


def select(X: Tensor) -> Tensor:
    """What thinet does: stream blocks of rows into the moments, then remove half the channels."""
    moments = ContributionMoments(X.shape[1], (), locations=10)
    for rows in X.split(BLOCK):
        moments.add_rows(rows)
    return greedy_removal(moments.summary().gram, X.shape[1] // 2)


def loop(x: np.ndarray, count: int, limit: float) -> tuple[list[int], float]:
    """The paper's loop: for every candidate the norm of a running sum plus that candidate's column.

    Steps are counted in candidates, each of which costs the same m additions and one norm.

    Args:
        x: Samples, ``(m, C)``.
        count: Channels to remove.
        limit: CPU seconds after which it stops at the end of a step.

    Returns:
        The channels removed, and the CPU seconds of all ``count`` steps: measured if they were all
        done, otherwise extrapolated by the number of candidates.
    """
    channels = x.shape[1]
    total = np.zeros(x.shape[0])
    removed: list[int] = []
    tried = 0
    start = time.process_time()
    while len(removed) < count and time.process_time() - start < limit:
        least, best = np.inf, -1
        for j in range(channels):
            if j not in removed:
                value = np.linalg.norm(total + x[:, j])
                tried += 1
                if value < least:
                    least, best = value, j
        total = total + x[:, best]
        removed.append(best)
    spent = time.process_time() - start
    candidates = sum(channels - step for step in range(count))
    return removed, spent * candidates / tried


def measure(channels: int, rows: int, rounds: int) -> dict[str, float]:
    """Time everything in turn, ``rounds`` times; medians of times and of ratios within a round."""
    X = samples(rows, channels, seed=channels)
    by_row, by_column = X.numpy(), np.asfortranarray(X.numpy())
    order = select(X).tolist()  # and so everything is warm
    gram = torch.from_numpy(by_row.T @ by_row)
    found: dict[str, list[float]] = {}
    for turn in range(rounds):
        # The first round runs as long as its patience, to check the extrapolation and the answer.
        limit = PATIENCE if turn == 0 else PATIENCE / 10
        strided, whole = loop(by_row, channels // 2, limit)
        straight, kind = loop(by_column, channels // 2, limit)
        assert strided == order[: len(strided)], "the loop chooses other channels"
        assert straight == order[: len(straight)], "the loop chooses other channels"
        times = {
            "bare_numpy": seconds(lambda: bare_numpy(X)),
            "bare_torch": seconds(lambda: bare_torch(X)),
            "gram_and_greedy": seconds(lambda: select(X)),
            "loop": whole,
            "loop_by_column": kind,
        }
        times["greedy_alone"] = seconds(lambda: greedy_removal(gram, channels // 2))
        ours = times["gram_and_greedy"]
        times["over_bare_numpy"] = ours / times["bare_numpy"]
        times["over_bare_torch"] = ours / times["bare_torch"]
        times["loop_over_ours"] = whole / ours
        times["loop_by_column_over_ours"] = kind / ours
        times["loop_steps_checked"] = float(len(strided)) if turn == 0 else 0.0
        for name, value in times.items():
            found.setdefault(name, []).append(value)
    steps = max(found.pop("loop_steps_checked"))
    result = {name: statistics.median(values) for name, values in found.items()}
    return {"channels": channels, "rows": rows, **result, "loop_steps_checked": steps}


def draw(results: list[dict[str, float]], path: Path) -> None:
    """Seconds against channels, both logarithmic."""
    rows = f"{results[0]['rows']:,.0f} rows, half of the channels removed; CPU seconds, one thread"
    figure, (ax,) = new_figure(7.2, 4.2, "Choosing filters costs one matrix product", rows)
    lines = [  # the last number moves a label away from its neighbour, in points
        ("loop", "the paper's loop", VERMILLION, "s", 0),
        ("loop_by_column", "the same, samples\nstored by column", VERMILLION, "^", 0),
        ("gram_and_greedy", "thinet: streamed\nGram + greedy", BLUE, "o", 9),
        ("bare_numpy", "bare X.T @ X", GREEN, "D", -12),
    ]
    channels = [result["channels"] for result in results]
    for name, _, color, marker, _ in lines:
        style = "--" if name in ("loop_by_column", "bare_numpy") else "-"
        values = [result[name] for result in results]
        ax.plot(channels, values, color=color, marker=marker, linestyle=style, markersize=5)
    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
    ax.set_xticks(channels, [f"{value:.0f}" for value in channels])
    ax.minorticks_off()
    ax.set_xlabel("channels C")
    ax.set_ylabel("seconds")
    ax.grid(axis="y", color=GRID, linewidth=0.8)
    last = results[-1]
    for name, text, color, _, up in lines:
        ax.annotate(
            f"{text}\n{last[name]:.3g} s", (channels[-1], last[name]), xytext=(9, up),
            textcoords="offset points", size=8, color=color, va="center", annotation_clip=False,
        )  # fmt: skip
    save_png(figure, path)


def main(words: Sequence[str] | None = None) -> None:
    """Measure, print, write ``results.csv`` and ``figure.png`` beside this file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--channels", type=int, nargs="+", default=[64, 128, 256, 512])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=HERE)
    options = parse(parser, words, rows=500, channels=[8, 16], rounds=1)
    torch.set_num_threads(1)
    results = []
    with threadpool_limits(1):  # numpy's BLAS has threads of its own
        for channels in options.channels:
            results.append(measure(channels, options.rows, options.rounds))
            print({key: round(value, 4) for key, value in results[-1].items()}, flush=True)
    options.out.mkdir(parents=True, exist_ok=True)
    with (options.out / "results.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, results[0].keys(), lineterminator="\n")
        writer.writeheader()
        for result in results:
            writer.writerow({key: f"{value:.5g}" for key, value in result.items()})
    draw(results, options.out / "figure.png")


if __name__ == "__main__":
    main()
