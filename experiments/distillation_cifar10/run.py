"""What is a teacher worth, to a student from random weights and to a network that was pruned?

Usage: python -m experiments.distillation_cifar10.run --root data/cifar10 \
           --weights weights/resnet56_cifar10.safetensors
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

import thinet
from experiments.cifar import (
    Data,
    Images,
    append_row,
    arguments,
    finetune,
    has_row,
    inputs,
    parsed,
    read_data,
    read_rows,
    recalibrated,
    splice,
    untrained,
)
from experiments.distillation_cifar10.arms import FIVE, THREE, Arm, Course, School, arms
from experiments.distillation_cifar10.cost import measure as measure_costs
from experiments.distillation_cifar10.figure import draw
from experiments.distillation_cifar10.tables import better, tables
from experiments.peers.run import prune
from thinet.base.seeding import derive_seed
from thinet.datasets.sampler_checks import images_per_class
from thinet.metrics import cost
from thinet.models.cifar_resnet import CifarResNet

HERE = Path(__file__).parent
GPU = HERE / "h200"
"""Results of :mod:`experiments.distillation_cifar10.on_gpu`."""
SHAPE = (3, 32, 32)
CLASSES = 10
BETA = 100.0
PRUNED_BETA = 100.0
BETAS = (10.0, 100.0, 1000.0)
BETA_SEED = 99
"""Beta was chosen on validation images with a seed that no result has."""
RECIPE = "full recipe"
PEERS = ("tp l1", "tp fpgm")
PARTS = ("students", "pruned", "peers", "kernels", "beta", "beta_pruned", "cost")
STUDENT = "resnet20"


@dataclass(frozen=True)
class Task:
    """One row.

    Attributes:
        part: Of the study.
        network: ``resnet20``, or the way that the teacher is pruned.
        arm: Its name; None for the better one of KD and KD + CC.
        seed: Of everything random.
        beta: Weight of the correlation congruence.
    """

    part: str
    network: str
    arm: str | None
    seed: int
    beta: float


def work(
    parts: Sequence[str], seeds: Sequence[int], beta: float, slim_beta: float
) -> Iterator[Task]:
    """All rows, so that after each seed the tables are worth reading.

    Args:
        parts: Of the study.
        seeds: Of the results.
        beta: Weight of the correlation congruence for a student from random weights.
        slim_beta: The same for a pruned network.
    """
    for part, network in (("beta", STUDENT), ("beta_pruned", RECIPE)):
        if part in parts:
            yield from (Task("beta", network, "KD + CC", BETA_SEED, one) for one in BETAS)
            yield Task("beta", network, "KD", BETA_SEED, BETA)
    for seed in seeds:
        if "students" in parts:
            yield from (Task("students", STUDENT, name, seed, beta) for name in FIVE)
        if "pruned" in parts:
            yield from (Task("pruned", RECIPE, name, seed, slim_beta) for name in THREE)
    for seed in seeds if "peers" in parts else ():
        for network in PEERS:
            yield from (Task("peers", network, name, seed, slim_beta) for name in ("CE", None))
    if "kernels" in parts:
        others = [name for name in arms(beta) if name not in FIVE]
        yield from (Task("kernels", STUDENT, name, seeds[0], beta) for name in others)


class Study:
    """Everything that rows are measured with.

    Args:
        options: The command line.
        teacher: The teacher, which is the network that is pruned too.
        data: Images.
    """

    def __init__(self, options: argparse.Namespace, teacher: nn.Module, data: Data) -> None:
        self.options, self.data = options, data
        work = options.out if options.smoke else options.work
        self.school = School(teacher, data, work, options.gpu)
        self._pruned: tuple[tuple[str, int], nn.Module] | None = None

    def course(self, task: Task) -> Course:
        """How long a network of a task learns."""
        given, small = self.options, task.network == STUDENT
        few = {STUDENT: 2, RECIPE: 1}.get(task.network) if task.part == "beta" else None
        if small:
            epochs = few or given.epochs
            k = images_per_class("auto", given.batch, CLASSES)
            return Course(epochs, given.images, given.batch, given.rate, min(1, epochs / 2), k)
        return Course(few or given.tuning, given.images, given.tuning_batch, 0.01)

    def start(self, task: Task) -> nn.Module:
        """The network of a task before it learns: the same one for all arms of a seed."""
        if task.network == STUDENT:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(derive_seed("student", task.seed))
                made = CifarResNet(1, 10) if self.options.smoke else untrained(STUDENT)
            return made.to(memory_format=torch.channels_last)
        key = task.network, task.seed
        if self._pruned is None or self._pruned[0] != key:
            device = "cuda" if self.options.gpu else "cpu"
            whole = copy.deepcopy(self.school.teacher.network).to(device)
            some = self.data.calibration(self.options.calibration, task.seed)
            there = Images(some.pixels.to(device), some.labels.to(device))
            data = replace(self.data, train=there)
            slim = prune(whole, task.network, data, self.options.calibration, task.seed)
            again = recalibrated(slim, there).to(memory_format=torch.channels_last)
            self._pruned = key, again.cpu()
        return copy.deepcopy(self._pruned[1])

    def measure(self, task: Task, arm: Arm) -> dict[str, object]:
        """Train and judge."""
        network = self.start(task)
        before: object = ""
        if task.network != STUDENT and task.part != "beta":
            before = self.school.judge(network, "test")["accuracy"]
        key = "student" if task.network == STUDENT else "finetune"
        logged = self.school.train(network, arm, self.course(task), task.seed, key)
        found = self.school.figures(network, logged, test=task.part != "beta")
        costs = cost(network, SHAPE)
        return {"before": before, **found, "mflops": costs.flops / 1e6, "params": costs.params}

    def mark(self, task: Task, name: str, arm: Arm) -> dict[str, object]:
        """What tells a row from others."""
        course = self.course(task)
        return {
            "part": task.part, "network": task.network, "arm": name, "sampler": arm.sampler,
            "teacher": "given" if self.options.as_given else "tuned", "beta": arm.beta,
            "seed": task.seed, "epochs": course.epochs, "images": course.images,
            "batch": course.batch, "rate": course.rate,
        }  # fmt: skip

    def fill(self, path: Path) -> None:
        """Measure what is missing."""
        self._unpruned(path)
        given = self.options
        for task in work(given.parts, given.seeds, given.beta, given.pruned_beta):
            name = task.arm or better(read_rows(path))
            if name is None:
                print("the better of KD and KD + CC is not known yet: --parts pruned peers")
                continue
            self.add(path, task, name)

    def add(self, path: Path, task: Task, name: str) -> None:
        """The row of a task, unless it is there."""
        arm = arms(task.beta)[name]
        mark = self.mark(task, name, arm)
        if has_row(read_rows(path), mark):
            return
        found = self.measure(task, arm)
        append_row(path, {**mark, **found})
        print({**mark, **found}, flush=True)

    def _unpruned(self, path: Path) -> None:
        """A row of the teacher."""
        teacher = self.school.teacher.network
        task = Task("teacher", self.options.model, "CE", 0, 0)
        mark = self.mark(task, "unpruned", Arm()) | {"epochs": 0, "images": 0}
        if has_row(read_rows(path), mark):
            return
        costs = cost(teacher, SHAPE)
        found = self.school.figures(teacher, {"seconds": 0.0})
        found |= {"mflops": costs.flops / 1e6, "params": costs.params}
        append_row(path, {**mark, "before": "", **found})


def teacher_and_data(options: argparse.Namespace) -> tuple[nn.Module, Data]:
    """The teacher, fine-tuned to these images first unless it is given, and the images."""
    if options.teacher is not None:
        torch.set_num_threads(options.threads)
        network, data = thinet.load(options.teacher), read_data(options.root)
    else:
        network, data = inputs(options)
        if not options.smoke and not options.as_given:
            folder = options.work / "teacher"
            if not folder.exists():
                tuned = finetune(network, data, epochs=2, per_epoch=len(data.train), seed=0)
                thinet.save(tuned, folder)
            network = thinet.load(folder, network)
    return network.to(memory_format=torch.channels_last), data


def report(options: argparse.Namespace) -> None:
    """Tables and figures of what there is, on a CPU and on a GPU."""
    rows = read_rows(options.out / "results.csv")
    text = tables(rows, read_rows(options.out / "costs.csv"))
    draw(rows, options.out / "figure.png")
    if options.out == HERE:
        whole = read_rows(GPU / "results.csv")
        draw(whole, GPU / "figure.png")
        text = (
            f"### Whole epochs, on an H200\n\n{tables(whole, [])}\n\n"
            f"### Reduced, on two cores\n\n{text}"
        )
        splice(HERE / "README.md", text)
    print(text)


def make_parser(description: str | None, out: Path) -> argparse.ArgumentParser:
    """The arguments of the study, on a CPU or a GPU."""
    parser = arguments(description, out)
    parser.add_argument("--teacher", type=Path, help="folder of a saved network, ready to teach")
    parser.add_argument("--as-given", action="store_true", help="do not fine-tune --weights first")
    parser.add_argument("--work", type=Path, default=Path("outputs/distillation_cifar10"))
    parser.add_argument("--parts", nargs="+", default=list(PARTS[:4]), choices=PARTS)
    parser.add_argument("--beta", type=float, default=BETA, help="weight of the congruence")
    parser.add_argument("--pruned-beta", type=float, default=PRUNED_BETA, help="in part (b)")
    parser.add_argument("--epochs", type=int, default=6, help="of a student")
    parser.add_argument("--images", type=int, default=5_000, help="an epoch, of 45,000")
    parser.add_argument("--batch", type=int, default=64, help="of a student")
    parser.add_argument("--rate", type=float, default=0.1, help="of a student")
    parser.add_argument("--tuning", type=int, default=3, help="epochs of a pruned network")
    parser.add_argument("--tuning-batch", type=int, default=128)
    parser.add_argument("--calibration", type=int, default=512, help="images, to prune")
    parser.add_argument("--rounds", type=int, default=20, help="of timing")
    parser.set_defaults(gpu=False)
    return parser


TINY = {
    "parts": [*PARTS[:5], "cost"], "epochs": 1, "images": 16, "batch": 16, "tuning": 1,
    "tuning_batch": 16, "calibration": 16, "seeds": [0], "rounds": 2,
}  # fmt: skip


def main(words: Sequence[str] | None = None) -> None:
    """Measure what is missing in ``results.csv``; then tables and figure."""
    options = parsed(make_parser(__doc__, HERE), words, **TINY)
    if not options.draw:
        teacher, data = teacher_and_data(options)
        if set(options.parts) - {"cost"}:
            Study(options, teacher, data).fill(options.out / "results.csv")
        if "cost" in options.parts:
            measure_costs(options, teacher)
    report(options)


if __name__ == "__main__":
    main()
