"""The tables of the study, as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from experiments.cifar import mean_and_spread

Rows = Sequence[Mapping[str, str]]
NAMES = {"vgg16_gap": "VGG-16-GAP at a quarter of its width", "resnet56": "ResNet-56"}


def pick(rows: Rows, **wanted: str) -> list[Mapping[str, str]]:
    """The rows with these values."""
    return [row for row in rows if all(row[key] == value for key, value in wanted.items())]


def values(rows: Rows, column: str) -> list[float]:
    """A column as numbers."""
    return [float(row[column]) for row in rows]


def distinct(rows: Rows, column: str) -> list[str]:
    """The values of a column in order of appearance."""
    return list(dict.fromkeys(row[column] for row in rows))


def by_ratio(rows: Rows, column: str) -> list[str]:
    """One line a way, one column a ratio: mean and spread over the seeds."""
    ratios = sorted(distinct(rows, "ratio"), key=float, reverse=True)
    lines = [f"| r | {' | '.join(ratios)} |", "|---" * (len(ratios) + 1) + "|"]
    removed = [f"{values(pick(rows, ratio=ratio), 'mflops')[0]:.1f}" for ratio in ratios]
    lines.append(f"| MFLOPs | {' | '.join(removed)} |")
    for way in distinct(rows, "way"):
        cells = [mean_and_spread(values(pick(rows, way=way, ratio=r), column)) for r in ratios]
        lines.append(f"| {way} | {' | '.join(cells)} |")
    return lines


def scratch_line(scratch: Rows, ratios: Sequence[str]) -> list[str]:
    """What training the same widths from random weights gives."""
    if not scratch:
        return []
    cells = [mean_and_spread(values(pick(scratch, ratio=ratio), "test")) for ratio in ratios]
    return [f"| from scratch, equal epochs | {' | '.join(cells)} |"]


def single(rows: Rows, column: str) -> list[str]:
    """One line a layer, one column a way, and the mean over the layers."""
    ways = distinct(rows, "way")
    lines = [f"| layer | {' | '.join(ways)} |", "|---" * (len(ways) + 1) + "|"]
    for layer in distinct(rows, "layer"):
        cells = [mean_and_spread(values(pick(rows, way=w, layer=layer), column)) for w in ways]
        lines.append(f"| {layer} | {' | '.join(cells)} |")
    means = [values(pick(rows, way=way), column) for way in ways]
    lines.append(f"| mean | {' | '.join(f'{sum(m) / len(m):.2f}' for m in means)} |")
    return lines


def tables(rows: Mapping[str, Rows]) -> str:
    """All tables that have something to show."""
    lines: list[str] = []
    for base in rows["baseline"]:
        model = base["model"]
        costs = f"{float(base['mflops']):.1f} MFLOPs, {int(base['params']):,} parameters"
        name = f"### {NAMES.get(model, model)}: {float(base['test']):.2f} % before pruning"
        lines += ["", f"{name}, {costs}"]
        ratios = pick(rows["ratios"], model=model)
        if ratios:
            norms = model != "vgg16_gap"
            lines += ["", "Right after the cut" + (", BatchNorm recalibrated:" if norms else ":")]
            lines += ["", *by_ratio(ratios, "test")]
            if norms:
                lines += ["", "As cut, BatchNorm not recalibrated:", ""]
                lines += by_ratio(ratios, "test_plain")
            lines += [
                "",
                f"After {ratios[0]['epochs']} epochs of {int(ratios[0]['images']):,} images:",
            ]
            found = sorted(distinct(ratios, "ratio"), key=float, reverse=True)
            scratch = pick(rows["scratch"], model=model)
            lines += ["", *by_ratio(ratios, "test_finetuned"), *scratch_line(scratch, found)]
        alone = pick(rows["single"], model=model)
        if alone:
            lines += ["", "60 % of one layer removed and nothing else, no fine-tuning:"]
            lines += ["", *single(alone, "test")]
    return "\n".join(lines)
