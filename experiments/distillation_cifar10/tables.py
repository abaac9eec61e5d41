"""The tables of the study."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from experiments.cifar import mean_and_spread

Row = dict[str, str]


def values(rows: Sequence[Row], column: str) -> list[float]:
    """The numbers of a column that there are."""
    return [float(row[column]) for row in rows if row.get(column) not in (None, "")]


def mean(rows: Sequence[Row], column: str, how: str) -> str:
    """The mean over seeds, formatted, or nothing."""
    found = values(rows, column)
    return format(float(np.mean(found)), how) if found else ""


def paired(rows: Sequence[Row], under: Sequence[Row], column: str = "test") -> list[float]:
    """Differences of the rows whose seeds both have."""
    base = {row["seed"]: float(row[column]) for row in under}
    return [float(row[column]) - base[row["seed"]] for row in rows if row["seed"] in base]


def signed(differences: Sequence[float]) -> str:
    """``+0.5 ± 0.2``."""
    text = mean_and_spread(differences)
    return text if not text or text.startswith("-") else f"+{text}"


def better(rows: Sequence[Row]) -> str | None:
    """KD or KD + CC: which the pruned network learns more from, by mean validation accuracy."""
    mine = [row for row in rows if row["part"] == "pruned"]
    scores = {
        name: values([row for row in mine if row["arm"] == name], "val")
        for name in ("KD", "KD + CC")
    }
    if not all(scores.values()):
        return None
    return max(scores, key=lambda name: float(np.mean(scores[name])))


def by_arm(rows: Sequence[Row]) -> dict[tuple[str, str], list[Row]]:
    """Rows by network and arm, in the order in which they came."""
    keys = dict.fromkeys((row["network"], row["arm"]) for row in rows)
    return {key: [row for row in rows if (row["network"], row["arm"]) == key] for key in keys}


def _shares(rows: Sequence[Row]) -> str:
    names = ("cross_entropy", "soft_targets", "correlation")
    return " / ".join(mean(rows, f"share_{name}", ".0%").rstrip("%") or "-" for name in names)


def _common(rows: Sequence[Row]) -> list[str]:
    return [
        mean(rows, "test_agreement", ".1f"),
        mean(rows, "test_congruence", ".2e"),
        _shares(rows),
    ]


COMMON = ("agreement", "congruence", "shares CE / KD / CC, %")


def _lines(titles: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    body = [titles, ["---"] * len(titles), *lines]
    return "\n".join("| " + " | ".join(line) + " |" for line in body)


def students(rows: Sequence[Row], parts: Sequence[str]) -> str:
    """Part (a)."""
    groups = by_arm([row for row in rows if row["part"] in parts])
    base = {name: groups.get(("resnet20", name), []) for name in ("CE", "KD")}
    lines = [
        [
            arm, mean_and_spread(values(mine, "test")), signed(paired(mine, base["CE"])),
            signed(paired(mine, base["KD"])), *_common(mine), mean(mine, "seconds", ".0f"),
            str(len(mine)),
        ]
        for (_, arm), mine in groups.items()
    ]  # fmt: skip
    titles = ("arm", "test", "beyond CE", "beyond KD", *COMMON, "CPU s", "seeds")
    return _lines(titles, lines)


def pruned(rows: Sequence[Row]) -> str:
    """Part (b)."""
    groups = by_arm([row for row in rows if row["part"] in ("pruned", "peers")])
    lines = [
        [
            network, arm, mean_and_spread(values(mine, "before")),
            mean_and_spread(values(mine, "test")),
            signed(paired(mine, groups.get((network, "CE"), []))),
            *_common(mine), mean(mine, "mflops", ".2f"), mean(mine, "params", ",.0f"),
            mean(mine, "seconds", ".0f"), str(len(mine)),
        ]
        for (network, arm), mine in groups.items()
    ]  # fmt: skip
    titles = ("pruned by", "arm", "before", "fine-tuned", "beyond CE", *COMMON, "MFLOPs", "params",
              "CPU s", "seeds")  # fmt: skip
    return _lines(titles, lines)


def betas(rows: Sequence[Row]) -> str:
    """How beta was chosen."""
    lines = [
        [
            row["network"], row["arm"], row["beta"], mean([row], "val", ".2f"), _shares([row]),
            mean([row], "correlation", ".2e"),
        ]
        for row in rows
        if row["part"] == "beta"
    ]  # fmt: skip
    titles = ("network", "arm", "beta", "validation", "shares CE / KD / CC, %", "CC in training")
    return _lines(titles, lines)


def costs(rows: Sequence[Row]) -> str:
    """Part (c)."""
    lines = [
        [
            row["pair"], row["batch"], mean([row], "engine_ms", ".1f"),
            f"{float(row['engine']):.3f} ± {float(row['engine_spread']):.3f}",
            mean([row], "plain", ".2f"), mean([row], "correlation", ".2%"),
            mean([row], "peak_mb", ".0f"), mean([row], "peak_plain_mb", ".0f"), row["rounds"],
        ]
        for row in rows
    ]  # fmt: skip
    titles = ("student < teacher", "batch", "step, ms", "over by hand", "CE alone over by hand",
              "L_CC over by hand", "peak, MB", "peak of CE alone, MB", "rounds")  # fmt: skip
    return _lines(titles, lines)


def tables(rows: Sequence[Row], costly: Sequence[Row]) -> str:
    """All of them, as markdown."""
    teacher = [row for row in rows if row["part"] == "teacher"]
    said = ", ".join(f"{float(row['test']):.2f} % ({row['teacher']})" for row in teacher)
    parts: list[tuple[str, Callable[[], str], bool]] = [
        ("(a) ResNet-20 from random weights", lambda: students(rows, ("students",)), True),
        (
            "(a) Other kernels, orders, weights, one sampler without the loss",
            lambda: students(_with_base(rows), ("students", "kernels")),
            any(row["part"] == "kernels" for row in rows),
        ),
        ("(b) ResNet-56 pruned to half the FLOPs", lambda: pruned(rows), True),
        (
            "The choice of beta (validation alone)",
            lambda: betas(rows),
            any(row["part"] == "beta" for row in rows),
        ),
        ("(c) What a step costs", lambda: costs(costly), bool(costly)),
    ]
    text = f"The teacher on the test images: {said}.\n"
    return text + "".join(f"\n**{title}**\n\n{made()}\n" for title, made, there in parts if there)


def _with_base(rows: Sequence[Row]) -> list[Row]:
    """Rows of the seeds that other kernels were tried with."""
    seeds = {row["seed"] for row in rows if row["part"] == "kernels"}
    arms = ("CE", "KD", "KD + CC", "KD + CC, class_uniform")
    return [
        row
        for row in rows
        if row["seed"] in seeds
        and (row["part"] == "kernels" or (row["part"] == "students" and row["arm"] in arms))
    ]
