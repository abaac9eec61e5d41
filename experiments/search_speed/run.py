"""What does the generation of weights cost: a training step, a candidate's evaluation?

Usage: python -m experiments.search_speed.run [--device cuda]
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from experiments.cifar import splice
from experiments.ratio_figure import draw_ratios
from experiments.smoke import parse
from experiments.timing import (
    Row,
    default_threads,
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
from thinet.metrics.top1 import top1_error
from thinet.models import build
from thinet.search.fitness import judge
from thinet.search.hypernet import PruningNet
from thinet.search.settings import Making
from thinet.surgery import remove_, trace
from thinet.widths.space import Genes, Space

HERE = Path(__file__).parent
STEP, CANDIDATE = "training step", "candidate"
AIMS = {STEP: 1.3, CANDIDATE: 1.1}


@dataclass(frozen=True)
class Case:
    """A network.

    Attributes:
        builder: Dotted name.
        size: Side of an image.
        hidden: Of the generators.
    """

    builder: str
    size: int
    hidden: int = 32


CASES = {
    "vgg_small": Case("thinet.models.small_vgg.vgg_small", 32),
    "ResNet-20": Case("thinet.models.cifar_resnet.resnet20", 32),
    "ResNet-56": Case("thinet.models.cifar_resnet.resnet56", 32),
    "MobileNetV2": Case("thinet.models.mobilenet.mobilenet_v2", 64),
}


@dataclass(frozen=True, eq=False)
class Networks:
    """A PruningNet, and the plain network of its mean widths."""

    net: PruningNet
    slim: nn.Module
    genes: Genes

    @classmethod
    def of(cls, case: Case, device: torch.device) -> Networks:
        """With random weights."""
        torch.manual_seed(0)
        network = build(case.builder, num_classes=10, image_size=case.size)
        graph = trace(network, torch.zeros(1, 3, case.size, case.size))
        space = Space.of(graph, graph.prunable(summed=True))
        net = PruningNet(network, graph, space, Making(case.hidden))
        genes = (len(space.scales) // 2,) * space.size
        keep = {name: range(count) for name, count in space.counts(genes).items()}
        slim = remove_(copy.deepcopy(network), graph, keep)
        return cls(net.to(device), slim.to(device), genes)


def stepping(module: nn.Module, run: Callable[[Tensor], Tensor], images: Tensor,
             labels: Tensor) -> Callable[[], object]:  # fmt: skip
    """A step of SGD with the paper's loss."""
    optimizer = torch.optim.SGD(module.parameters(), 0.05, momentum=0.9, weight_decay=4e-5)

    def step() -> None:
        loss = F.cross_entropy(run(images), labels, label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    module.train()
    return step


def by_hand(slim: nn.Module, images: Sequence[Tensor],
            validation: Sequence[tuple[Tensor, Tensor]]) -> float:  # fmt: skip
    """Statistics and error of the plain network."""
    with torch.no_grad():
        update_bn(images, slim)
        return top1_error(slim.eval(), validation)


def measure(name: str, case: Case, options: argparse.Namespace) -> list[tuple[Row, list[float]]]:
    """Both sides in turn, for a step and for a candidate."""
    device = torch.device(options.device)
    networks = Networks.of(case, device)
    generator = torch.Generator().manual_seed(0)

    def batch(count: int) -> tuple[Tensor, Tensor]:
        images = torch.randn(count, 3, case.size, case.size, generator=generator)
        return images.to(device), torch.randint(10, (count,), generator=generator).to(device)

    images, labels = batch(options.batch)
    calibration = [batch(64)[0] for _ in range(options.batches)]
    validation = [batch(64) for _ in range(options.batches)]
    net, genes, slim = networks.net, networks.genes, networks.slim
    pairs = {
        STEP: {
            "searched": stepping(net, lambda x: net(x, genes), images, labels),
            "plain": stepping(slim, slim, images, labels),
        },
        CANDIDATE: {
            "searched": partial(judge, net, genes, calibration, validation),
            "plain": partial(by_hand, slim, calibration, validation),
        },
    }
    found = []
    for what, tasks in pairs.items():
        times = take_turns(tasks, options.rounds, finish=synchroniser(device))
        row: Row = {
            "network": name,
            "what": what,
            "parameters": sum(one.numel() for one in net.parameters()) / 1e6,
            "ratio": ratio(times, "searched", "plain"),
            "spread": spread(times, "searched", "plain"),
            "aim": AIMS[what],
            "seconds": sorted(times["plain"])[len(times["plain"]) // 2],
            "rounds": len(times["plain"]),
        }
        found.append((row, ratios(times, "searched", "plain")))
        net.eval()
    return found


COLUMNS = {
    "network": "network",
    "what": "what",
    "parameters": "M parameters of the hypernetwork|.1f",
    "ratio": "over the plain slim network|.3f",
    "spread": "± half the quartiles' distance|.3f",
    "aim": "aim, at most|.1f",
    "seconds": "s of the plain one|.3f",
}


def main(words: Sequence[str] | None = None) -> None:
    """Measure, print, write ``results.csv`` and ``figure.png`` beside this file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--batch", type=int, default=128, help="images a training step")
    parser.add_argument("--batches", type=int, default=10, help="of 64, for statistics and error")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--threads", type=int, default=default_threads())
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, default=HERE)
    options = parse(
        parser, words, cases=list(CASES)[:1], batch=8, batches=1, rounds=1, device="cpu"
    )
    rows, rounds = list[Row](), dict[str, list[float]]()
    with threads(options.threads):
        for name in options.cases:
            for row, found in measure(name, CASES[name], options):
                rows.append(row)
                rounds[f"{name}, {row['what']}"] = found
                print({key: row[key] for key in COLUMNS}, flush=True)
    where = hardware(torch.device(options.device), options.threads)
    write_rows(options.out / "results.csv", [{**row, "machine": where} for row in rows])
    draw_ratios(
        rounds,
        {name: row["ratio"] for name, row in zip(rounds, rows, strict=True)},
        {name: row["aim"] for name, row in zip(rounds, rows, strict=True)},
        ("Generated weights beside a plain network of the same widths",
         f"seconds over those of the plain slim network, batch {options.batch}; {where}",
         "over the plain network (grey: the aim)"),
        options.out / "figure.png",
    )  # fmt: skip
    text = f"{where}\n\n{markdown(rows, COLUMNS)}"
    if options.out == HERE:
        splice(HERE / "README.md", text)
    print(f"\n{text}")


if __name__ == "__main__":
    main()
