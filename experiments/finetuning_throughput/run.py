"""Is fine-tuning through the engine slower than a loop written by hand?

Usage: python -m experiments.finetuning_throughput.run [--root <folder with train/ and test/>]
"""

from __future__ import annotations

import argparse
import copy
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

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
from thinet.datasets.folder import Folder
from thinet.datasets.module import ImageData
from thinet.engine.engine import Engine
from thinet.engine.log_levels import silence_lightning
from thinet.engine.logging.loggers import RunCSVLogger
from thinet.engine.phases import Phase, learning_rate
from thinet.engine.settings import Devices, Training
from thinet.models.cifar_resnet import resnet20, resnet56
from thinet.models.resnet import resnet18
from thinet.models.small_vgg import vgg_small
from thinet.report.style import BLUE, GRID, INK, MUTED, SKY, VERMILLION, new_figure, save_png
from thinet.surgery import evaluating

HERE = Path(__file__).parent
NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "vgg_small": vgg_small,
    "resnet20": resnet20,
    "resnet56": resnet56,
    "resnet18": resnet18,
}
KEY = "speed"
CLIP = 2.0
OPTIMIZER = partial(torch.optim.SGD, lr=1.0, momentum=0.9, weight_decay=5e-4)


@dataclass(frozen=True)
class Setting:
    """What both sides train.

    Attributes:
        network: With its weights to begin with; each fit takes a copy.
        data: Images.
        phase: Epochs and learning rates.
        device: Where.
        most: Steps of an epoch, None for all.
    """

    network: nn.Module
    data: ImageData
    phase: Phase
    device: torch.device
    most: int | None = None

    @property
    def steps(self) -> int:
        """Of an epoch."""
        batches = len(self.data.train_dataloader())
        return batches if self.most is None else min(batches, self.most)

    @property
    def images(self) -> int:
        """Of an epoch."""
        whole = len(self.data.train_dataloader().sampler)  # type: ignore[arg-type]
        return min(whole, self.steps * self.data.batch_size)


def by_engine(setting: Setting, folder: Path) -> nn.Module:
    """What a stage of a run does: ``Engine.fit``, with the run's log of metrics."""
    accelerator = "gpu" if setting.device.type == "cuda" else "cpu"
    devices = Devices(accelerator, progress="off", max_steps_per_epoch=setting.most)
    network = copy.deepcopy(setting.network)
    engine = Engine(setting.data, devices, [RunCSVLogger(folder)])
    training = Training(OPTIMIZER, clip_norm=CLIP)
    engine.fit(network, [setting.phase], training, KEY, folder / "stage")
    setting.data.trainer = None  # the loop loads by itself
    return network


def by_hand(setting: Setting, folder: Path, keep: bool = True) -> nn.Module:
    """The loop that one would write: train, validate and keep a checkpoint in every epoch.

    Args:
        setting: What to train.
        folder: For the checkpoint.
        keep: Whether to validate and keep a checkpoint at all.
    """
    network = copy.deepcopy(setting.network).to(setting.device).train()
    optimizer = OPTIMIZER(network.parameters())
    rate, steps = learning_rate([setting.phase]), setting.steps
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(step / steps))
    setting.data.stage_key = KEY
    loader = setting.data.train_dataloader()
    for epoch in range(setting.phase.epochs):
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        total = torch.zeros((), device=setting.device)
        for step, batch in zip(range(steps), loader, strict=False):
            images, labels = (part.to(setting.device, non_blocking=True) for part in batch)
            loss = F.cross_entropy(network(images), labels)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), CLIP)
            optimizer.step()
            schedule.step()
            total += loss.detach()
            if step % 10 == 9:
                float(loss.detach())  # a look at the loss now and then, as the engine's log has
        if keep:
            validate(network, setting)
            state = {"network": network.state_dict(), "optimizer": optimizer.state_dict()}
            folder.mkdir(parents=True, exist_ok=True)
            torch.save(state, folder / "last.pt")
    return network.cpu()


@torch.no_grad()
def validate(network: nn.Module, setting: Setting) -> float:
    """Top-1 accuracy on the validation images."""
    hits = seen = 0
    with evaluating(network):
        for images, labels in setting.data.val_dataloader():
            found = network(images.to(setting.device)).argmax(dim=1).cpu()
            hits += int((found == labels).sum())
            seen += len(labels)
    return hits / seen


def measure(name: str, setting: Setting, rounds: int, patience: float) -> tuple[Row, list[float]]:
    """Throughput of both sides, taking turns, and whether they end with the same weights."""
    ended: dict[str, nn.Module] = {}
    with tempfile.TemporaryDirectory() as folder:
        numbers = count()

        def engine() -> None:
            ended["engine"] = by_engine(setting, Path(folder) / str(next(numbers)))

        def hand() -> None:
            ended["hand"] = by_hand(setting, Path(folder) / str(next(numbers)))

        def bare() -> None:
            by_hand(setting, Path(folder) / str(next(numbers)), keep=False)

        tasks = {"engine": engine, "hand": hand, "bare": bare}
        finish = synchroniser(setting.device)
        times = take_turns(tasks, rounds, patience, finish=finish, hold_garbage=False)
    images = setting.images * setting.phase.epochs
    speeds = {f"{side}_images_per_second": [images / one for one in times[side]] for side in times}
    row: Row = {
        "network": name,
        "images_per_fit": images,
        "epochs": setting.phase.epochs,
        "batch": setting.data.batch_size,
        "workers": setting.data.num_workers,
        # throughput of the engine over that of the loop: seconds the other way round
        "engine_over_hand": ratio(times, "hand", "engine"),
        "spread": spread(times, "hand", "engine"),
        "hand_over_bare": ratio(times, "bare", "hand"),
        "weights_differ": furthest(ended["engine"], ended["hand"]),
        "rounds": len(times["engine"]),
        **{key: sorted(values)[len(values) // 2] for key, values in speeds.items()},
    }
    return row, ratios(times, "hand", "engine")


def draw(rows: Sequence[Row], rounds: Sequence[Sequence[float]], where: str, path: Path) -> None:
    """A point a round and a bar for the median, by network, in percent."""
    figure, (ax,) = new_figure(
        7.2, 1.9 + 0.55 * len(rows), "Fine-tuning through the engine and by hand",
        f"images per second of the engine over those of a plain loop; {where}",
    )  # fmt: skip
    places = range(len(rows))[::-1]
    ax.axvspan(97, 103, color=GRID, zorder=0, linewidth=0)
    ax.axvline(100, color=MUTED, linewidth=1)
    for place, row, found in zip(places, rows, rounds, strict=True):
        ax.scatter([100 * one for one in found], [place] * len(found), color=SKY, s=26, alpha=0.8)
        median = 100 * row["engine_over_hand"]
        color = BLUE if median >= 97 else VERMILLION
        ax.scatter([median], [place], marker="|", s=420, color=color, linewidth=2.4)
        ax.annotate(
            f"{median:.1f} %", (median, place), xytext=(0, 15), textcoords="offset points",
            ha="center", size=9, color=INK,
        )  # fmt: skip
    ax.set_yticks(places, [row["network"] for row in rows], size=9)
    ax.set_ylim(-0.6, len(rows) - 0.25)
    every = [100 * one for found in rounds for one in found]
    ax.set_xlim(min(94.0, min(every) - 1), max(106.0, max(every) + 1))
    ax.set_xlabel("percent of the loop's throughput (grey: within 3 %)")
    save_png(figure, path)


COLUMNS = {
    "network": "network",
    "images_per_fit": "images a fit",
    "epochs": "epochs",
    "batch": "batch",
    "engine_over_hand": "engine over loop|.1%",
    "spread": "± half the quartiles' distance|.1%",
    "hand_over_bare": "loop over one that neither validates nor keeps|.1%",
    "weights_differ": "weights differ by|.0e",
}


def make_data(options: argparse.Namespace) -> ImageData:
    """The digits, or the folder that was given."""
    common = {"image_size": options.size, "batch_size": options.batch}
    common["num_workers"] = options.workers
    data: ImageData
    data = Folder(root=options.root, **common) if options.root else Digits(crop="pad", **common)
    data.setup()
    return data


def main(words: Sequence[str] | None = None) -> None:
    """Measure, print, write ``results.csv`` and ``figure.png`` beside this file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", help="a folder with train/ and test/; the digits without one")
    parser.add_argument("--networks", nargs="+", default=["vgg_small", "resnet20"],
                        choices=list(NETWORKS))  # fmt: skip
    parser.add_argument("--size", type=int, default=32, help="of an image, in pixels")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--workers", type=int, default=0, help="processes that load images")
    parser.add_argument("--epochs", type=int, default=2, help="of a fit")
    parser.add_argument("--steps", type=int, help="at most, of an epoch")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--patience", type=float, default=110.0, help="seconds for a network")
    parser.add_argument("--threads", type=int, default=default_threads())
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, default=HERE)
    options = parse(
        parser,
        words,
        networks=["vgg_small"],
        size=8,
        epochs=1,
        steps=2,
        rounds=1,
        patience=0,
        device="cpu",
    )
    silence_lightning()
    device = torch.device(options.device)
    phase = Phase(options.epochs, 0.01, "cosine")
    rows: list[Row] = []
    rounds: list[list[float]] = []
    with threads(options.threads):
        for name in options.networks:
            data = make_data(options)
            torch.manual_seed(0)
            network = NETWORKS[name](num_classes=data.num_classes, image_size=options.size)
            setting = Setting(network, data, phase, device, options.steps)
            row, found = measure(name, setting, options.rounds, options.patience)
            rows.append(row)
            rounds.append(found)
            print({key: value for key, value in row.items() if key in COLUMNS}, flush=True)
    what = "folder" if options.root else "digits"
    where = f"{what} of {options.size} px, {hardware(device, options.threads)}"
    write_rows(options.out / "results.csv", [{**row, "machine": where} for row in rows])
    draw(rows, rounds, where, options.out / "figure.png")
    print(f"\n{where}\n\n{markdown(rows, COLUMNS)}")


if __name__ == "__main__":
    main()
