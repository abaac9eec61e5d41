"""What does each ingredient of one-shot pruning add, and what does more data buy?

Usage: python -m experiments.reconstruction_ingredients.run --root data/cifar10 \
           --weights weights/resnet56_cifar10.safetensors [--only steps without criteria ...]
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from torch import nn

import thinet
from experiments.cifar import (
    Data,
    accuracy,
    append_row,
    arguments,
    has_row,
    inputs,
    mean_and_spread,
    parsed,
    read_rows,
    recalibrated,
    splice,
)
from experiments.reconstruction_ingredients.figure import draw
from thinet.pruning.reconstruction import NoReconstruction, Reconstruction, Refit, Scale
from thinet.pruning.statistics import Sampling

HERE = Path(__file__).parent
INNER = {"resnet": ["layer*.conv1"], "vgg": "inner"}
"""Which layers are pruned, by family: those of a residual network that are not added up."""


@dataclass(frozen=True)
class Recipe:
    """How to prune; the defaults are the plainest ThiNet with the paper's factors.

    Attributes:
        criterion: A file of ``thinet/pruning/criteria``.
        reconstruction: ``none``, ``scale`` or ``refit``.
        intercept: Of the refit: a constant is fitted, too.
        target: Of the refit: ``current`` or ``original``.
        ridge: Of the refit.
        positions: Of each image that the refit looks at; 0 for all.
        exact: Second moments of the contributions without sampling.
        recalibrate: BatchNorm statistics ``after`` all cuts or after ``each``.
        allocation: ``uniform`` or ``error``, at the FLOPs that uniform halves leave.
        images: For calibration.
    """

    criterion: str = "thinet"
    reconstruction: str = "scale"
    intercept: bool = False
    target: str = "current"
    ridge: float = 1e-4
    positions: int = 256
    exact: bool = False
    recalibrate: str = "after"
    allocation: str = "uniform"
    images: int = 512

    def method(self) -> Reconstruction:
        """What corrects the next layer."""
        if self.reconstruction == "refit":
            return Refit(self.target, self.ridge, self.intercept)
        return Scale() if self.reconstruction == "scale" else NoReconstruction()


FULL = Recipe(
    "thinet_refit", "refit", True, "original", positions=0, recalibrate="each", allocation="error"
)
PLAIN = Recipe(reconstruction="refit", intercept=True)
STEPS = {
    "weight sum, no reconstruction": Recipe("weight_sum", "none"),
    "ThiNet, no reconstruction": Recipe(reconstruction="none"),
    "ThiNet + scale": Recipe(),
    "ThiNet + refit of the weights": Recipe(reconstruction="refit"),
    "+ intercept": PLAIN,
    "+ all positions": replace(PLAIN, positions=0),
    "+ aims at the original outputs": replace(PLAIN, positions=0, target="original"),
    "+ BatchNorm after each cut": replace(FULL, criterion="thinet", allocation="uniform"),
    "+ budget by error": replace(FULL, criterion="thinet"),
    "+ selection aware of the refit = full recipe": FULL,
    "the same with ThiNet on exact moments": replace(FULL, criterion="thinet", exact=True),
}
"""Each adds something to the one before; the last replaces the selection of the full recipe."""
WITHOUT = {
    "budget by error": replace(FULL, allocation="uniform"),
    "BatchNorm after each cut": replace(FULL, recalibrate="after"),
    "aim at the original outputs": replace(FULL, target="current"),
    "all positions (256 instead)": replace(FULL, positions=256),
    "intercept": replace(FULL, intercept=False),
    "refit (scale instead)": Recipe(
        positions=0, recalibrate="each", allocation="error", exact=True
    ),
}
"""The full recipe less one ingredient."""
ALONE = {
    "all positions": replace(PLAIN, positions=0),
    "exact moments": replace(PLAIN, exact=True),
    "aim at the original outputs": replace(PLAIN, target="original"),
    "BatchNorm after each cut": replace(PLAIN, recalibrate="each"),
    "budget by error": replace(PLAIN, allocation="error"),
    "selection aware of the refit": replace(PLAIN, criterion="thinet_refit"),
}
"""One ingredient added to ThiNet with a refit and intercept."""
CRITERIA = (
    "thinet_refit", "thinet", "thinet_omp", "lasso", "random", "weight_sum", "l2", "fpgm", "taylor",
    "bn_scale", "activation_mean", "apoz",
)  # fmt: skip
PARTS: dict[str, dict[str, Recipe]] = {
    "steps": STEPS,
    "without": WITHOUT,
    "criteria_full": {name: replace(FULL, criterion=name) for name in CRITERIA},
    "criteria_scale": {name: Recipe(name) for name in CRITERIA},
    "images": {f"{n}": replace(FULL, images=n) for n in (128, 256, 512, 1024, 2048)},
    "images_scale": {f"{n}": Recipe(images=n) for n in (128, 256, 512, 1024, 2048)},
    "alone": ALONE,
    "ridge": {f"{r:g}": replace(FULL, ridge=r) for r in (1e-6, 1e-5, 1e-4, 1e-3, 1e-2)},
    "positions": {f"{n or 'all'}": replace(FULL, positions=n) for n in (16, 64, 256, 0)},
}
TITLES = {
    "steps": "Step by step",
    "without": "The full recipe with one thing changed",
    "criteria_full": "Selections with all the rest of the full recipe",
    "criteria_scale": "Selections with the paper's factors (scale)",
    "images": "Calibration images, full recipe",
    "images_scale": "Calibration images, ThiNet + scale",
    "alone": "One thing added to ThiNet + refit with intercept",
    "ridge": "Ridge of the refit, full recipe",
    "positions": "Positions of each image, full recipe",
}
REPEATED = ("steps",)
"""Parts that are measured with all seeds; the others with the first alone."""


def prune(model: nn.Module, name: str, data: Data, recipe: Recipe, seed: int) -> thinet.PruneResult:
    """One call of :func:`thinet.prune`; BatchNorms are left for later unless after each cut."""
    chosen = data.calibration(recipe.images, seed)
    layers = INNER["vgg" if name.startswith("vgg") else "resnet"]
    half = budget(model, name, chosen.batches(64)) if recipe.allocation == "error" else None
    return thinet.prune(
        model,
        chosen.batches(64),
        0.5,
        recipe.criterion,
        recipe.method(),
        layers,
        target=None if half is None else f"flops:{half}",
        allocation=recipe.allocation,
        recalibrate_bn="each" if recipe.recalibrate == "each" else "never",
        sampling=Sampling(positions=recipe.positions or None, exact=recipe.exact, seed=seed),
    )


def budget(model: nn.Module, name: str, batches: object) -> float:
    """The fraction of the FLOPs that is left when every layer keeps half of its filters."""
    layers = INNER["vgg" if name.startswith("vgg") else "resnet"]
    images = next(iter(batches))[0][:2]  # type: ignore[call-overload]
    result = thinet.prune(
        model, [images], 0.5, "weight_sum", "none", layers, recalibrate_bn="never"
    )
    return result.after.flops / result.before.flops


def measure(
    model: nn.Module, name: str, data: Data, recipe: Recipe, seed: int
) -> dict[str, object]:
    """Prune, and the accuracies in percent before and after recalibration."""
    start = time.process_time()
    result = prune(model, name, data, recipe, seed)
    seconds = time.process_time() - start
    again = recalibrated(result.model, data.calibration(recipe.images, seed))
    found: dict[str, object] = {
        "validation": accuracy(again, data, "val"),
        "test": accuracy(again, data),
    }
    # After each cut also means after the last: there is nothing left to recalibrate.
    plain = found["test"] if recipe.recalibrate == "each" else accuracy(result.model, data)
    return {
        **found,
        "test_plain": plain,
        "mflops": result.after.flops / 1e6,
        "params": result.after.params,
        "seconds": seconds,
    }


def key(model: str, recipe: Recipe, seed: int) -> dict[str, object]:
    """What identifies a row."""
    return {"model": model, **asdict(recipe), "seed": seed}


def work(parts: list[str], seeds: list[int]) -> list[tuple[Recipe, int]]:
    """What to measure, in order, without repetitions."""
    found: dict[tuple[Recipe, int], None] = {}
    for part in parts:
        for seed in seeds if part in REPEATED else seeds[:1]:
            for recipe in PARTS[part].values():
                found[recipe, seed] = None
    # The first seed of everything before the others of anything.
    return sorted(found, key=lambda item: seeds.index(item[1]))


def tables(rows: list[dict[str, str]], model: str) -> str:
    """Markdown, one table a part."""
    lines: list[str] = []
    for part, title in TITLES.items():
        if len(found(rows, model, part)) < 2:  # nothing to compare
            continue
        lines += ["", f"**{title}**", ""]
        lines += ["| what | validation | test | as cut | MFLOPs | parameters | CPU s | seeds |"]
        lines += ["|---|---|---|---|---|---|---|---|"]
        measured = found(rows, model, part)
        chosen = max(measured, key=lambda label: _mean(measured[label], "validation"))
        for label, mine in measured.items():
            cells = [
                mean_and_spread([float(row[name]) for row in mine])
                for name in ("validation", "test", "test_plain")
            ]
            last = mine[0]
            cells += [f"{float(last['mflops']):.1f}", f"{int(last['params']):,}"]
            cells += [f"{float(last['seconds']):.0f}", str(len(mine))]
            cells[0] = f"**{cells[0]}**" if label == chosen else cells[0]
            lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _mean(rows: list[dict[str, str]], name: str) -> float:
    return sum(float(row[name]) for row in rows) / len(rows)


def found(rows: list[dict[str, str]], model: str, part: str) -> dict[str, list[dict[str, str]]]:
    """The measured rows of a part by label: all seeds, or the first where only one is wanted."""
    result = {}
    for label, recipe in PARTS[part].items():
        wanted = {name: value for name, value in key(model, recipe, 0).items() if name != "seed"}
        mine = sorted(
            (row for row in rows if has_row([row], wanted)), key=lambda row: int(row["seed"])
        )
        if mine:
            result[label] = mine if part in REPEATED else mine[:1]
    return result


def main(words: Sequence[str] | None = None) -> None:
    """Measure what is missing in ``results.csv``; then tables and figure."""
    parser = arguments(__doc__, HERE)
    parser.add_argument("--only", nargs="+", default=list(PARTS), choices=list(PARTS))
    options = parsed(parser, words)
    path = options.out / "results.csv"
    if not options.draw:
        model, data = inputs(options)
        todo = work(["steps"], [0])[1:4] if options.smoke else work(options.only, options.seeds)
        for recipe, seed in todo:
            mark = key(options.model, recipe, seed)
            if has_row(read_rows(path), mark):
                continue
            row = {**mark, **measure(model, options.model, data, recipe, seed)}
            append_row(path, row)
            print(row, flush=True)
    rows = read_rows(path)
    text = tables(rows, options.model)
    print(text)
    if options.out == HERE:
        splice(HERE / "README.md", text)
    parts = {part: found(rows, options.model, part) for part in PARTS}
    draw(parts, options.out / "figure.png")


if __name__ == "__main__":
    main()
