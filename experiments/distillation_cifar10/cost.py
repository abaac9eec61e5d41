"""What a distilled step costs, beside a loop written by hand with the same teacher pass."""

from __future__ import annotations

import argparse
import copy
import statistics
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiments.cifar import OPTIMIZER, untrained
from experiments.timing import Row, hardware, ratio, spread, take_turns, threads, write_rows
from thinet.engine.distilled import Distilled, Pupil
from thinet.engine.lesson import Lesson
from thinet.engine.objective import LOSS, at_rest
from thinet.engine.phases import Phase
from thinet.engine.settings import Training
from thinet.losses import correlation_congruence
from thinet.metrics.memory import PeakMemory
from thinet.models.cifar_resnet import CifarResNet
from thinet.models.features import find_feature

LESSON = Lesson(beta=100.0)
MEMORY_STEPS = 3
Batch = tuple[Tensor, Tensor]


def body(network: nn.Module, images: Tensor) -> Tensor:
    """Features of a :class:`CifarResNet`, as its ``forward`` computes them."""
    assert isinstance(network, CifarResNet)
    x = F.relu(network.bn1(network.conv1(images)))
    x = network.layer3(network.layer2(network.layer1(x)))
    return torch.flatten(network.avgpool(x), 1)


def matrix(features: Tensor, gamma: float = 0.4) -> Tensor:
    """The RBF of features of length 1, by its series up to the second power."""
    unit = F.normalize(features)
    s = unit @ unit.T
    return torch.exp(torch.tensor(-2 * gamma)) * (1 + 2 * gamma * s + 2 * (gamma * s) ** 2)


def loss_by_hand(student: nn.Module, teacher: nn.Module, batch: Batch) -> Tensor:
    """The loss that one would write."""
    images, labels = batch
    with torch.no_grad():
        theirs = body(teacher, images)
        taught = teacher.linear(theirs)
    own = body(student, images)
    logits = student.linear(own)
    t = LESSON.temperature
    kd = t * t * F.kl_div(
        F.log_softmax(logits / t, 1), F.log_softmax(taught / t, 1),
        reduction="batchmean", log_target=True,
    )  # fmt: skip
    cc = F.mse_loss(matrix(own), matrix(theirs))
    ce = F.cross_entropy(logits, labels)
    return LESSON.alpha * ce + (1 - LESSON.alpha) * kd + LESSON.beta * cc


def loss_by_engine(student: nn.Module, teacher: nn.Module) -> Callable[[Batch], Tensor]:
    """The sum that the engine trains on."""
    example = torch.zeros(2, 3, 32, 32)
    pupils = [Pupil(one, find_feature(one, example)) for one in (student, teacher)]
    objective = Distilled(pupils[0], pupils[1], LESSON, [Phase(1, 0.1)], Training(OPTIMIZER))
    (update,) = objective.updates
    return lambda batch: update.losses(batch)[LOSS]


def step(student: nn.Module, loss: Callable[[Batch], Tensor], batch: Batch) -> Callable[[], None]:
    """A step of training."""
    optimizer = torch.optim.SGD(student.parameters(), lr=0.01, momentum=0.9, nesterov=True)

    def take() -> None:
        optimizer.zero_grad()
        loss(batch).backward()
        optimizer.step()

    return take


def steps(student: nn.Module, teacher: nn.Module, size: int) -> dict[str, Callable[[], object]]:
    """What takes turns; each has a student of its own."""
    batch = torch.randn(size, 3, 32, 32), torch.randint(0, 10, (size,))
    names = ("engine", "hand", "plain")
    own = {name: copy.deepcopy(student).train().requires_grad_(True) for name in names}
    features = torch.rand(size, 64, requires_grad=True)
    theirs = torch.rand(size, 64)

    def plain(given: Batch) -> Tensor:
        return F.cross_entropy(own["plain"](given[0]), given[1])

    def congruence() -> None:
        features.grad = None
        (LESSON.beta * correlation_congruence(features, theirs)).backward()

    return {
        "engine": step(own["engine"], loss_by_engine(own["engine"], teacher), batch),
        "hand": step(own["hand"], lambda given: loss_by_hand(own["hand"], teacher, given), batch),
        "plain": step(own["plain"], plain, batch),
        "congruence": congruence,
    }


def pair(name: str, teacher: nn.Module) -> nn.Module:
    """The student of a pair."""
    torch.manual_seed(0)
    if name == "resnet20":
        return untrained("resnet20").to(memory_format=torch.channels_last)
    return copy.deepcopy(teacher)


def peak(kind: str, name: str, teacher: nn.Module, size: int) -> float | None:
    """Most memory of a few steps, in MB, in a process of its own."""
    with get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak, (kind, name, teacher, size, torch.get_num_threads()))


def _peak(kind: str, name: str, teacher: nn.Module, size: int, count: int) -> float | None:
    torch.set_num_threads(count)
    with at_rest([teacher]):
        take = steps(pair(name, teacher), teacher, size)[kind]
        measured = PeakMemory(torch.device("cpu"))
        for _ in range(MEMORY_STEPS):
            take()
        return measured.mb()


def measure(options: argparse.Namespace, teacher: nn.Module) -> None:
    """Write ``costs.csv``: two pairs, each with the batch that it is trained with."""
    teacher = copy.deepcopy(teacher).eval()
    rows: list[Row] = []
    for name, size in (("resnet20", options.batch), (options.model, options.tuning_batch)):
        student = teacher if options.smoke else pair(name, teacher)
        with threads(options.threads), at_rest([teacher]):
            times = take_turns(steps(student, teacher, size), options.rounds)
        row: Row = {
            "pair": f"{name} < {options.model}", "batch": size,
            "hardware": hardware(torch.device("cpu"), options.threads), "rounds": options.rounds,
            "engine_ms": 1e3 * statistics.median(times["engine"]),
            "hand_ms": 1e3 * statistics.median(times["hand"]),
            "engine": ratio(times, "engine", "hand"),
            "engine_spread": spread(times, "engine", "hand"),
            "plain": ratio(times, "plain", "hand"),
            "correlation": ratio(times, "congruence", "hand"),
            "peak_mb": None if options.smoke else peak("engine", name, teacher, size),
            "peak_plain_mb": None if options.smoke else peak("plain", name, teacher, size),
        }  # fmt: skip
        rows.append(row)
        print(row, flush=True)
    path: Path = options.out / "costs.csv"
    write_rows(path, rows)
