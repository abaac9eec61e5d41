"""How many images per second does each loader give, and does fine-tuning wait for them?

Usage: python -m experiments.input_speed.run [--workers 0 1 2] [--device cuda]
"""

from __future__ import annotations

import argparse
import copy
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import mobilenet_v3_small, resnet18

from experiments.input_speed.figure import draw
from experiments.input_speed.pictures import write_tree
from experiments.smoke import parse
from experiments.timing import (
    Row,
    hardware,
    markdown,
    ratio,
    spread,
    take_turns,
    threads,
    write_rows,
)
from thinet.datasets.decoders import LOADERS
from thinet.datasets.folder import Folder
from thinet.engine.engine import Engine
from thinet.engine.log_levels import silence_lightning
from thinet.engine.phases import Phase
from thinet.engine.settings import Devices, Training

HERE = Path(__file__).parent
PROTOCOLS = {  # the evaluated image, and what training makes of it
    "evaluation": ("evaluation", "random"),
    "training, random": ("training", "random"),
    "training, random_resized": ("training", "random_resized"),
}
NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "resnet18": resnet18,
    "mobilenet_v3_small": mobilenet_v3_small,
}
OPTIMIZER = partial(torch.optim.SGD, lr=1.0, momentum=0.9)


@dataclass(frozen=True)
class Setting:
    """What is common to all cells.

    Attributes:
        root: Folder with ``train`` and ``test``.
        size: Side of the network's input, in pixels.
        batch: Images a batch.
    """

    root: Path
    size: int
    batch: int

    def data(self, kind: type[Folder], loader: str, workers: int, crop: str) -> Any:
        """ImageNet's protocol on the generated images: shorter side 256, a 224 window."""
        return kind(
            root=str(self.root), image_size=self.size, batch_size=self.batch, num_workers=workers,
            resize="keep", crop=crop, loader=loader, val_fraction=0.1,
        )  # fmt: skip


def walk(setting: Setting, loader: str, workers: int, protocol: str) -> tuple[Any, int]:
    """A task that loads an epoch, and how many images that is; its workers stay alive."""
    part, crop = PROTOCOLS[protocol]
    data = setting.data(Folder, loader, workers, crop)
    batches = data.train_dataloader() if part == "training" else data.test_dataloader()

    def task() -> int:
        return sum(len(labels) for _, labels in batches)

    return task, task()


def throughput(
    setting: Setting, protocol: str, workers: int, rounds: int, patience: float
) -> list[Row]:
    """Images per second of each loader, taking turns."""
    made = {name: walk(setting, name, workers, protocol) for name in LOADERS}
    tasks = {name: task for name, (task, _) in made.items()}
    times = take_turns(tasks, rounds, patience, warm_up=0)
    return [
        {
            "part": "throughput",
            "what": protocol,
            "workers": workers,
            "loader": name,
            "images_per_second": statistics.median(made[name][1] / one for one in times[name]),
            "over_pil": ratio(times, LOADERS[0], name),
            "spread": spread(times, LOADERS[0], name),
            "rounds": len(times[name]),
        }
        for name in LOADERS
    ]


class Clocked:
    """A loader that remembers when each batch was asked for and when it came."""

    def __init__(self, loader: Any) -> None:
        self.loader, self.sampler = loader, loader.sampler
        self.asked: list[float] = []
        self.came: list[float] = []

    @property
    def _iterator(self) -> Any:
        """Where Lightning looks for the workers that it ends after a fit."""
        return self.loader._iterator

    @_iterator.setter
    def _iterator(self, value: Any) -> None:
        self.loader._iterator = value

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        self.asked, self.came = [], []
        batches = iter(self.loader)
        while True:
            self.asked.append(time.perf_counter())
            try:
                batch = next(batches)
            except StopIteration:
                return
            self.came.append(time.perf_counter())
            yield batch

    def share(self) -> float:
        """Part of the time from the first batch to the last one that passed in waiting."""
        waited = sum(b - a for a, b in zip(self.asked[1:], self.came[1:], strict=False))
        return waited / (self.came[-1] - self.came[0])

    def per_second(self, batch: int) -> float:
        """Images per second from the first batch to the last one."""
        return batch * (len(self.came) - 1) / (self.came[-1] - self.came[0])


class ClockedFolder(Folder):
    """A folder data set whose training batches are clocked."""

    def train_dataloader(self) -> Any:
        """The clocked loader of the epoch."""
        self.clocked = Clocked(super().train_dataloader())
        return self.clocked


@dataclass
class Fit:
    """One epoch of fine-tuning through the engine, again and again.

    Attributes:
        data: What it reads.
        network: Its weights stay as they are.
        devices: Where, and for how many steps.
        folder: For checkpoints.
    """

    data: ClockedFolder
    network: nn.Module
    devices: Devices
    folder: Path

    def __post_init__(self) -> None:
        self.numbers = count()
        self.shares: list[float] = []
        self.speeds: list[float] = []

    def __call__(self) -> None:
        """Fine-tune a copy for an epoch."""
        engine = Engine(self.data, self.devices)
        folder = self.folder / str(next(self.numbers))
        network = copy.deepcopy(self.network)
        engine.fit(network, [Phase(1, 1e-3)], Training(OPTIMIZER), "speed", folder)
        self.shares.append(self.data.clocked.share())
        self.speeds.append(self.data.clocked.per_second(self.data.batch_size))


def waiting(
    setting: Setting, name: str, workers: int, devices: Devices, rounds: int, patience: float
) -> list[Row]:
    """Share of an epoch that waits for data, of each loader, taking turns."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        fits: dict[str, Fit] = {}
        for loader in LOADERS:
            data = setting.data(ClockedFolder, loader, workers, "random")
            data.setup()
            network = NETWORKS[name](num_classes=data.num_classes)
            fits[loader] = Fit(data, network, devices, Path(folder) / loader)
        times = take_turns(fits, rounds, patience, least=2, warm_up=0, hold_garbage=False)
    return [
        {
            "part": "waiting",
            "what": name,
            "workers": workers,
            "loader": loader,
            "images_per_second": statistics.median(fit.speeds),
            "waiting": statistics.median(fit.shares),
            "spread": (max(fit.shares) - min(fit.shares)) / 2,
            "rounds": len(times[loader]),
        }
        for loader, fit in fits.items()
    ]


SPEED = {
    "what": "transform", "workers": "workers", "loader": "loader",
    "images_per_second": "images/s|.0f", "over_pil": "times pil|.2f", "spread": "±|.2f",
}  # fmt: skip
WAIT = {
    "what": "network", "workers": "workers", "loader": "loader",
    "images_per_second": "images/s trained|.0f", "waiting": "waits|.1%", "spread": "±|.1%",
}  # fmt: skip


def options_of(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=160, help="to load in a turn")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--size", type=int, default=224, help="of an input, in pixels")
    parser.add_argument("--scale", type=float, default=1.0, help="of the generated pictures")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--steps", type=int, default=6, help="of a fine-tuning epoch")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--patience", type=float, default=5.0, help="seconds for a cell")
    parser.add_argument("--threads", type=int, default=1, help="of the training process")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, default=HERE)
    return parse(
        parser, words, images=6, scale=0.1, size=16, workers=[0], batch=2, networks=["resnet18"],
        steps=2, rounds=1, patience=0, device="cpu",
    )  # fmt: skip


def measure(setting: Setting, options: argparse.Namespace, devices: Devices) -> list[Row]:
    """All cells, one after the other."""
    rows: list[Row] = []
    rounds, patience = options.rounds, options.patience
    for protocol in PROTOCOLS:
        for workers in options.workers:
            rows += throughput(setting, protocol, workers, rounds, patience)
            print(f"{protocol}, {workers} workers: {rows[-1]['over_pil']:.2f}x", flush=True)
    for name in options.networks:
        for workers in options.workers:
            rows += waiting(setting, name, workers, devices, rounds, patience)
            shares = [f"{row['loader']} {row['waiting']:.1%}" for row in rows[-len(LOADERS) :]]
            print(f"{name}, {workers} workers waits: {', '.join(shares)}", flush=True)
    return rows


def main(words: Sequence[str] | None = None) -> None:
    """Measure, print, write ``results.csv`` and ``figure.png`` beside this file."""
    options = options_of(words)
    silence_lightning()
    device = torch.device(options.device)
    accelerator = "gpu" if device.type == "cuda" else "cpu"
    devices = Devices(accelerator, progress="off", max_steps_per_epoch=options.steps)
    with tempfile.TemporaryDirectory() as folder, threads(options.threads):
        root = Path(folder)
        size = write_tree(root, round(options.images / 0.9), options.images, options.scale)
        setting = Setting(root, options.size, options.batch)
        rows = measure(setting, options, devices)
    where = f"{options.size} px; {hardware(device, options.threads)}; files of {size / 1000:.0f} kB"
    columns = ("part", "what", "workers", "loader", "images_per_second", "over_pil", "waiting",
               "spread", "rounds")  # fmt: skip
    rows = [{key: row.get(key) for key in columns} for row in rows]
    write_rows(options.out / "results.csv", [{**row, "machine": where} for row in rows])
    draw(rows, where, options.out / "figure.png")
    for part, titles in (("throughput", SPEED), ("waiting", WAIT)):
        print(f"\n{where}\n\n{markdown([row for row in rows if row['part'] == part], titles)}")


if __name__ == "__main__":
    main()
