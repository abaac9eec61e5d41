"""Is an iteration of generator and student slower through the engine than in a loop by hand?

Usage: python -m experiments.datafree_speed.run [--device cuda]
"""

from __future__ import annotations

import argparse
import copy
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from experiments.cifar import splice
from experiments.ratio_figure import draw_ratios
from experiments.smoke import parse
from experiments.timing import (
    Row,
    default_threads,
    furthest,
    hardware,
    markdown,
    ratio,
    ratios,
    spread,
    synchroniser,
    take_turns,
    threads,
    write_rows,
)
from thinet.datasets.digits import Digits
from thinet.datasets.steps import Step, Steps
from thinet.engine.engine import Engine
from thinet.engine.log_levels import silence_lightning
from thinet.engine.logging.loggers import RunCSVLogger
from thinet.engine.objective import Objective
from thinet.engine.phases import Phase
from thinet.engine.settings import Devices, Training
from thinet.losses import (
    activation,
    batchnorm_statistics,
    information_entropy,
    one_hot,
    soft_targets,
)
from thinet.metrics import PeakMemory
from thinet.models import build
from thinet.synthesis.generator import Generator
from thinet.synthesis.noise import Noise
from thinet.synthesis.objective import DataFree
from thinet.synthesis.settings import Losses
from thinet.synthesis.statistics import watching
from thinet.synthesis.training import critic_of
from thinet.synthesis.updates import Batches, Turn

HERE = Path(__file__).parent
ADAM = partial(torch.optim.Adam, lr=1.0)
RATE, KEY, AIM = 1e-3, "speed", 1.05


@dataclass(frozen=True)
class Case:
    """Networks of one comparison.

    Attributes:
        teacher: Dotted name of the builder, and arguments.
        student: As above.
        width: Of the generator.
        batch: Images an iteration.
        batchnorm: Weight of the statistics.
        latent: Numbers an image is drawn from.
    """

    teacher: tuple[str, dict[str, object]]
    student: tuple[str, dict[str, object]]
    width: int
    batch: int
    batchnorm: float = 0.0
    latent: int = 100


VGG = "thinet.models.small_vgg.vgg_small"
RESNET = "thinet.models.cifar_resnet"
CASES = {
    "vgg_small to its half, BatchNorm statistics": Case(
        (VGG, {"widths": [32, 64, 128]}), (VGG, {"widths": [16, 32, 64]}), 32, 128, 1.0
    ),
    "ResNet-56 to ResNet-20": Case((f"{RESNET}.resnet56", {}), (f"{RESNET}.resnet20", {}), 32, 64),
    "LeNet-5 to LeNet-5-Half": Case(
        ("thinet.models.lenet.lenet5", {}),
        ("thinet.models.lenet.lenet5", {"widths": [3, 8, 60, 42]}),
        32,
        256,
    ),
}
PAPER_ITERATIONS = 240_000
"""Of the paper's CIFAR-10, 2,000 epochs of 120."""
LARGE = {
    "ResNet-34 to ResNet-18, the paper's CIFAR-10": Case(
        ("thinet.models.resnet.resnet34", {}), ("thinet.models.resnet.resnet18", {}), 128, 1024,
        latent=1000,
    ),
}  # fmt: skip
"""For a GPU: an iteration takes minutes on a CPU."""


@dataclass(frozen=True, eq=False)
class Networks:
    """What both sides begin with."""

    teacher: nn.Module
    student: nn.Module
    generator: Generator
    case: Case

    @classmethod
    def of(cls, case: Case, device: torch.device) -> Networks:
        """With random weights."""
        torch.manual_seed(0)
        teacher, student = (
            build(name, num_classes=10, image_size=32, **arguments)
            for name, arguments in (case.teacher, case.student)
        )
        generator = Generator((3, 32, 32), case.latent, case.width)
        teacher.eval().requires_grad_(False)
        return cls(teacher.to(device), student.to(device), generator.to(device), case)

    def copies(self) -> tuple[nn.Module, Generator]:
        """Student and generator to train."""
        return copy.deepcopy(self.student).train(), copy.deepcopy(self.generator)


def by_engine(networks: Networks, steps: int, device: torch.device) -> tuple[nn.Module, float]:
    """The student, and the median seconds of an iteration, from one begin to the next."""
    student, generator = networks.copies()
    case, moments = networks.case, list[float]()
    turn = Turn(Phase(1, RATE), Training(ADAM))
    losses = Losses(batchnorm=case.batchnorm)
    data = Digits(image_size=32, batch_size=case.batch, num_classes=10, crop="none", flip=False)
    critic = critic_of(networks.teacher, losses, torch.zeros(2, 3, 32, 32, device=device))
    batches = Batches(generator, Timed(0, case.batch, moments, synchroniser(device)))
    objective: Objective = DataFree(student, critic, batches, (turn, turn))
    accelerator = "gpu" if device.type == "cuda" else "cpu"
    with tempfile.TemporaryDirectory() as folder:
        engine = Engine(data, Devices(accelerator, progress="off"), [RunCSVLogger(Path(folder))])
        engine.train(objective, KEY, Path(folder) / "fit", Steps(steps), validated=False)
    networks.teacher.to(device)
    return student.to(device), _median(moments)


def by_hand(networks: Networks, steps: int, device: torch.device) -> tuple[nn.Module, float]:
    """The loop that one would write: one batch for both, gradients of both, two steps."""
    student, generator = networks.copies()
    case, moments = networks.case, list[float]()
    teacher = networks.teacher
    critic = critic_of(teacher, Losses(), torch.zeros(2, 3, 32, 32, device=device))
    noise = Timed(0, case.batch, moments, synchroniser(device))
    first, second = ADAM(generator.parameters(), lr=RATE), ADAM(student.parameters(), lr=RATE)
    for number in range(steps):
        images = generator(noise.draw(Step(0, number, 0), 0, case.latent).to(device))
        with ExitStack() as stack:
            read = stack.enter_context(watching(teacher)) if case.batchnorm else None
            logits, features = critic.teacher.answer(images)
            assert features is not None
            loss = one_hot(logits) + 0.1 * activation(features)
            loss = loss + 5 * information_entropy(logits.softmax(1).mean(0))
            if read is not None:
                loss = loss + case.batchnorm * batchnorm_statistics(*read())
        first.zero_grad()
        loss.backward()
        first.step()
        learnt = soft_targets(student(images.detach()), logits.detach(), 1.0)
        second.zero_grad()
        learnt.backward()
        second.step()
    return student, _median(moments)


@dataclass(frozen=True)
class Timed(Noise):
    """Notes when an iteration begins."""

    moments: list[float]
    wait: Callable[[], object]

    def draw(self, step: Step, number: int, *shape: int) -> torch.Tensor:
        """As there."""
        self.wait()
        self.moments.append(time.perf_counter())
        return super().draw(step, number, *shape)


def _median(moments: Sequence[float]) -> float:
    return statistics.median(after - before for before, after in pairwise(moments))


def measure(name: str, case: Case, options: argparse.Namespace) -> tuple[Row, list[float]]:
    """Both sides in turn; whether they end with the same weights; memory and arithmetic."""
    device = torch.device(options.device)
    networks = Networks.of(case, device)
    found: dict[str, list[float]] = {"engine": [], "hand": []}
    ended: dict[str, nn.Module] = {}

    def side(which: str, run: Callable[..., tuple[nn.Module, float]]) -> None:
        ended[which], seconds = run(networks, options.steps, device)
        found[which].append(seconds)

    tasks = {
        "engine": partial(side, "engine", by_engine), "hand": partial(side, "hand", by_hand)
    }  # fmt: skip
    memory = PeakMemory(device)
    take_turns(tasks, options.rounds, hold_garbage=False, warm_up=0)
    with FlopCounterMode(display=False) as counter:
        by_hand(networks, 2, device)
    gflops = counter.get_total_flops() / 2e9
    seconds = statistics.median(found["engine"])
    row: Row = {
        "case": name,
        "batch": case.batch,
        "engine_over_hand": ratio(found, "engine", "hand"),
        "spread": spread(found, "engine", "hand"),
        "seconds": seconds,
        "gflops": gflops,
        "gflops_per_second": gflops / seconds,
        "peak_mb": memory.mb(),
        "weights_differ": furthest(ended["engine"], ended["hand"]),
        "rounds": len(found["engine"]),
    }
    return row, ratios(found, "engine", "hand")


COLUMNS = {
    "case": "networks",
    "batch": "batch",
    "engine_over_hand": "engine over loop|.3f",
    "spread": "± half the quartiles' distance|.3f",
    "seconds": "s an iteration|.3f",
    "gflops": "GFLOPs an iteration|.1f",
    "gflops_per_second": "GFLOP/s|.0f",
    "peak_mb": "peak MiB of the process|.0f",
    "weights_differ": "weights differ by|.0e",
}


def main(words: Sequence[str] | None = None) -> None:
    """Measure, print, write ``results.csv`` and ``figure.png`` beside this file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=[*CASES, *LARGE])
    parser.add_argument("--steps", type=int, default=10, help="iterations of a measurement")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--threads", type=int, default=default_threads())
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, default=HERE)
    options = parse(parser, words, cases=list(CASES)[:1], steps=3, rounds=1, device="cpu")
    silence_lightning()
    rows: list[Row] = []
    rounds: list[list[float]] = []
    with threads(options.threads):
        for name in options.cases:
            row, found = measure(name, (CASES | LARGE)[name], options)
            rows.append(row)
            rounds.append(found)
            print({key: row[key] for key in COLUMNS}, flush=True)
    where = hardware(torch.device(options.device), options.threads)
    write_rows(options.out / "results.csv", [{**row, "machine": where} for row in rows])
    cases = [str(row["case"]) for row in rows]
    draw_ratios(
        dict(zip(cases, rounds, strict=True)),
        {str(row["case"]): row["engine_over_hand"] for row in rows},
        dict.fromkeys(cases, AIM),
        ("An iteration through the engine and by hand",
         f"seconds of the engine over those of a plain loop; {where}",
         f"over the loop (grey: the aim, at most {AIM})"),
        options.out / "figure.png",
    )  # fmt: skip
    text = f"{where}\n\n{markdown(rows, COLUMNS)}"
    if options.out == HERE:
        splice(HERE / "README.md", text)
    print(f"\n{text}")


if __name__ == "__main__":
    main()
