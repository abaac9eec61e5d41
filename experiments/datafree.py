"""What the studies of learning without data share: their arms, one training of each, their tables.

All students of a seed begin with the same weights and learn for as many iterations of as many
images, by the same recipe. Nothing is chosen: the last iterate is measured on the test images.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import thinet
from experiments.cifar import append_row, beyond, has_row, mean_and_spread, read_part, read_rows
from thinet.base.seeding import derive_seed
from thinet.datasets.module import ImageData
from thinet.datasets.steps import Step, Steps
from thinet.engine.engine import Engine
from thinet.engine.log_levels import silence_lightning
from thinet.engine.objective import Objective, Update
from thinet.engine.phases import Phase
from thinet.engine.settings import Devices, Training
from thinet.models import build
from thinet.report.style import (
    BLUE,
    GREEN,
    GRID,
    VERMILLION,
    new_figure,
    percent_axis,
    save_png,
)
from thinet.synthesis.generator import Generator
from thinet.synthesis.noise import Noise
from thinet.synthesis.objective import DataFree, Unlabelled
from thinet.synthesis.settings import Losses
from thinet.synthesis.training import critic_of
from thinet.synthesis.updates import Batches, Turn

ADAM = partial(torch.optim.Adam, lr=1.0)
TEACHER, LABELS = "teacher", "labels"
REAL, OTHER, NOISE = "KD, real images", "KD, CIFAR-10 in grey", "KD, noise"
KEPT = 20_000
"""Images of a set that students learn from: they see no more of them."""


def _losses(*names: str) -> dict[str, float]:
    weights = {"one_hot": 1.0, "activation": 0.1, "entropy": 5.0, "batchnorm": 1.0}
    return {name: weight if name in names else 0.0 for name, weight in weights.items()}


DRAWN = {
    "one-hot": _losses("one_hot"),
    "entropy": _losses("entropy"),
    "activation": _losses("activation"),
    "one-hot, activation": _losses("one_hot", "activation"),
    "one-hot, entropy": _losses("one_hot", "entropy"),
    "entropy, activation": _losses("entropy", "activation"),
    "all three": _losses("one_hot", "entropy", "activation"),
    "all three, 0.3 : 0.1 : 10": {"one_hot": 0.3, "activation": 0.1, "entropy": 10.0},
    "BatchNorm": _losses("batchnorm"),
    "all three, BatchNorm": _losses("one_hot", "entropy", "activation", "batchnorm"),
}
"""Weights of the losses, in the units of the authors' code."""
PAPER = {
    NOISE: 88.01, "one-hot": 78.77, "entropy": 88.14, "activation": 15.95,
    "one-hot, activation": 42.07, "one-hot, entropy": 97.25, "entropy, activation": 95.53,
    "all three": 98.20, TEACHER: 98.91, LABELS: 98.65, REAL: 98.91,
}  # fmt: skip
"""Of MNIST with LeNet-5; all but the first and the last four rows are recalled, not confirmed."""
ORDER = (TEACHER, LABELS, REAL, OTHER, NOISE, *DRAWN)


@dataclass(frozen=True)
class Pair:
    """A teacher and its student.

    Attributes:
        teacher: Builder and arguments.
        student: Builder and arguments.
        feature: Module of the teacher whose input is the feature; None for the classifier.
        colours: Of drawn images.
        arms: Rows that make sense.
    """

    teacher: tuple[str, Mapping[str, Any]]
    student: tuple[str, Mapping[str, Any]]
    feature: str | None
    colours: int | None
    arms: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Labelled(Objective):
    """A student of labels, on images in memory."""

    network: nn.Module
    draw: Callable[[Step], tuple[Tensor, Tensor]]
    turn: Turn

    @property
    def updates(self) -> tuple[Update, ...]:
        """The one update."""
        phases = [self.turn.phase]
        return (Update((self.network,), self._loss, {"ce": 1.0}, phases, self.turn.training),)

    def _loss(self, step: Step) -> dict[str, Tensor]:
        images, labels = self.draw(step)
        return {"ce": F.cross_entropy(self.network(images), labels)}


class Study:
    """Measures rows and keeps them.

    Args:
        options: The command line.
        pair: Teacher and student.
        data_of: The images, for a seed.
    """

    def __init__(
        self, options: argparse.Namespace, pair: Pair, data_of: Callable[[int], ImageData]
    ) -> None:
        silence_lightning()
        self.options, self.pair, self.data_of = options, pair, data_of

    def fill(self, path: Path) -> None:
        """Measure what is missing, so that after each seed the tables are worth reading."""
        names = (
            "iterations", "batch", "width", "generator_lr", "generator_decay", "student_lr",
            "teacher_epochs",
        )  # fmt: skip
        for seed in self.options.seeds:
            for name in self.pair.arms:
                if name not in self.options.arms:
                    continue
                mark = {"arm": name, "seed": seed}
                mark |= {key: getattr(self.options, key) for key in names}
                if has_row(read_rows(path), mark):
                    continue
                start = time.process_time()
                row = {**mark, **Arm(self, name, seed).measure()}
                append_row(path, row | {"seconds": time.process_time() - start})
                print(row, flush=True)

    @cached_property
    def others(self) -> Tensor:
        """CIFAR-10 in grey, with mean 0 and deviation 1, in three equal channels."""
        if self.options.smoke:
            return torch.randn(64, 1, 32, 32).expand(-1, 3, -1, -1)
        pixels = read_part(self.options.others / "train").pixels[: 2 * KEPT : 2].float()
        grey = pixels.mean(1, keepdim=True)
        return ((grey - grey.mean()) / grey.std()).expand(-1, 3, -1, -1)


class Arm:
    """One row.

    Args:
        study: Of which.
        name: Of the arm.
        seed: Of everything random.
    """

    def __init__(self, study: Study, name: str, seed: int) -> None:
        self.study, self.name, self.seed, options = study, name, seed, study.options
        self.data = study.data_of(seed)
        self.data.setup()
        self.engine = Engine(self.data, Devices("cpu", progress="off"), seed=seed)
        epochs = max(options.iterations // 40, 1)
        self.steps = Steps(options.iterations // epochs)

        def turn(rate: float, decay: str) -> Turn:
            return Turn(Phase(epochs, rate, decay), Training(ADAM))

        self.turns = (
            turn(options.generator_lr, options.generator_decay),
            turn(options.student_lr, "cosine"),
        )
        self.noise = Noise(derive_seed(seed, "study"), options.batch)

    def measure(self) -> dict[str, object]:
        """Train, then test."""
        teacher = self._teacher()
        if self.name == TEACHER:
            return self._figures(teacher)
        student = self._made(self.study.pair.student, "student")
        drawn = DRAWN.get(self.name)
        if drawn is not None:
            return self._drawn(student, teacher, drawn)
        objective: Objective
        if self.name == LABELS:
            objective = Labelled(student, self._labelled(), self.turns[1])
        else:
            turn = self.turns[1]
            objective = Unlabelled(
                student, teacher, self._images(), [turn.phase], turn.training, Losses()
            )
        self._train(objective)
        return self._figures(student)

    def _made(self, what: tuple[str, Mapping[str, Any]], who: str) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(self.seed, who))
            return build(what[0], num_classes=10, image_size=32, **what[1])

    def _teacher(self) -> nn.Module:
        """Trained once for all arms of a seed."""
        options, folder = self.study.options, self.study.options.work / f"teacher-{self.seed}"
        network = self._made(self.study.pair.teacher, "teacher")
        if not folder.exists():
            phase = Phase(options.teacher_epochs, 2e-3, "cosine")
            with tempfile.TemporaryDirectory() as own:
                self.engine.fit(network, [phase], Training(ADAM), "teacher", Path(own))
            thinet.save(network, folder)
        return thinet.load(folder, network).eval()

    def _drawn(
        self, student: nn.Module, teacher: nn.Module, weights: Mapping[str, float]
    ) -> dict[str, object]:
        options, pair = self.study.options, self.study.pair
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(self.seed, "generator"))
            generator = Generator((3, 32, 32), 100, options.width, pair.colours)
        losses = Losses(**weights, feature=pair.feature)
        critic = critic_of(teacher, losses, torch.zeros(2, 3, 32, 32))
        self._train(DataFree(student, critic, Batches(generator, self.noise), self.turns))
        return self._figures(student) | self._judged(generator, teacher)

    def _train(self, objective: Objective) -> None:
        with tempfile.TemporaryDirectory() as folder:
            self.engine.train(objective, self.name, Path(folder), self.steps, validated=False)

    def _real(self) -> tuple[Tensor, Tensor]:
        view = self.data.plain_training()
        items = [view[place] for place in range(min(KEPT, len(view)))]
        return torch.stack([one[0] for one in items]), torch.tensor([one[1] for one in items])

    def _labelled(self) -> Callable[[Step], tuple[Tensor, Tensor]]:
        images, labels = self._real()

        def draw(step: Step) -> tuple[Tensor, Tensor]:
            places = self.noise.places(step, 0) % len(images)
            return images[places], labels[places]

        return draw

    def _images(self) -> Callable[[Step], Tensor]:
        if self.name == NOISE:
            return lambda step: self.noise.draw(step, 0, 3, 32, 32)
        images = self._real()[0] if self.name == REAL else self.study.others
        return lambda step: images[self.noise.places(step, 0) % len(images)]

    def _figures(self, network: nn.Module) -> dict[str, object]:
        return {
            "test": 100 * self.engine.evaluate(network, "test").top1, "balance": "", "spread": ""
        }  # fmt: skip

    @torch.no_grad()
    def _judged(self, generator: Generator, teacher: nn.Module) -> dict[str, object]:
        """Entropy of the classes that the teacher sees, 1 at most, and how images differ."""
        images = generator(torch.randn(500, 100, generator=torch.Generator().manual_seed(0)))
        shares = teacher(images).argmax(1).bincount(minlength=10) / len(images)
        entropy = float(torch.special.entr(shares).sum()) / math.log(len(shares))
        return {"balance": entropy, "spread": float(images.std(0, correction=0).mean())}


def make_parser(description: str | None, out: Path) -> argparse.ArgumentParser:
    """The arguments that both studies take."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--root", type=Path, help="folder of the images")
    parser.add_argument("--others", type=Path, help="folder with train/ of CIFAR-10")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=out, help="where results.csv goes")
    parser.add_argument("--work", type=Path, default=Path("outputs") / out.name)
    parser.add_argument("--draw", action="store_true", help="only the tables")
    parser.add_argument("--arms", nargs="+", default=ORDER)
    parser.add_argument("--generator-lr", type=float, default=0.02)
    parser.add_argument("--generator-decay", default="cosine")
    parser.add_argument("--student-lr", type=float, default=5e-3)
    parser.add_argument("--width", type=int, default=32, help="of the generator; the paper's: 128")
    return parser


TINY = {
    "iterations": 2, "batch": 8, "width": 4, "teacher_epochs": 1, "seeds": [0],
    "arms": [TEACHER, LABELS, REAL, OTHER, NOISE, "all three"],
}  # fmt: skip


def tables(rows: Sequence[Mapping[str, str]], paper: bool) -> str:
    """Means and spreads over seeds, and paired differences to the student of real images."""
    by_arm = _grouped(rows)
    lines = [
        "| student of | iterations | seeds | test % | to KD on real images "
        "| classes (entropy of 1) | spread |" + (" paper |" if paper else ""),
        "|---|---|---|---|---|---|---|" + ("---|" if paper else ""),
    ]
    for (name, iterations), found in by_arm.items():
        cells = [
            name if name != TEACHER else "(the teacher)",
            str(iterations) if name != TEACHER else "",
            str(len(found)),
            mean_and_spread([float(row["test"]) for row in found.values()]),
            beyond(found, by_arm.get((REAL, iterations), {}), "test") if name != REAL else "",
            *(_mean(found, key) for key in ("balance", "spread")),
        ]
        if paper:
            cells.append(f"{PAPER[name]:.2f}" if name in PAPER else "")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


Grouped = dict[tuple[str, int], dict[str, Mapping[str, str]]]
"""Rows by arm and iterations, then by seed."""


def _grouped(rows: Sequence[Mapping[str, str]]) -> Grouped:
    """In the order of the arms; the longer ones after the shorter."""
    found: Grouped = {}
    places = {name: place for place, name in enumerate(ORDER)}
    for row in sorted(rows, key=lambda row: (places[row["arm"]], int(row["iterations"]))):
        found.setdefault((row["arm"], int(row["iterations"])), {})[row["seed"]] = row
    return found


def _mean(found: Mapping[str, Mapping[str, str]], key: str) -> str:
    values = [float(row[key]) for row in found.values() if row[key]]
    return f"{np.mean(values):.2f}" if values else ""


def draw(rows: Sequence[Mapping[str, str]], title: str, path: Path) -> None:
    """Test accuracy of each arm: every seed and the mean.

    Args:
        rows: Of ``results.csv``.
        title: What was learnt.
        path: Of the PNG.
    """
    by_arm = _grouped(rows)
    figure, (ax,) = new_figure(
        8.6, 1.6 + 0.34 * len(by_arm), "What a student learns from",
        f"{title}, test accuracy of the student (small: a seed, large: mean)",
    )  # fmt: skip
    for place, ((name, _), mine) in enumerate(by_arm.items()):
        found = np.array([float(row["test"]) for row in mine.values()])
        color = VERMILLION if name in DRAWN else GREEN if name in (OTHER, NOISE) else BLUE
        ax.plot([found.min(), found.max()], [place] * 2, color=GRID, linewidth=3, zorder=1)
        ax.plot(found, [place] * len(found), "o", color=color, markersize=3.5, alpha=0.7)
        ax.plot(found.mean(), place, "o", color=color, markersize=8, markerfacecolor="none")
    titles = ["(the teacher)" if arm == TEACHER else f"{arm}, {n:,}" for arm, n in by_arm]
    ax.set_yticks(range(len(by_arm)), titles)
    ax.set_ylim(len(by_arm) - 0.4, -0.6)
    percent_axis(ax, "x")
    save_png(figure, path)
