"""Does a run of 100 stages, or a sweep of 50 points in one process, hold ever more? See README."""

from __future__ import annotations

import argparse
import csv
import runpy
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

from experiments.memory.measure import holding, on_disk
from experiments.smoke import parse

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
SMALL = (
    "dataset.image_size=8", "dataset.calibration_per_class=2", "trainer=cpu",
    "trainer.progress=off", "trainer.max_steps_per_epoch=1", "baseline.epochs=1",
    "finetune.stage.epochs=1", "finetune.final.epochs=0",
)  # fmt: skip
TINY = (
    "model.build.widths=[4,8]",
    "model.paper_layers=[features.0,features.3,features.7]",
)


def command_line(*arguments: str) -> None:
    """``python run.py ARGUMENTS`` in this process."""
    with mock.patch.object(sys, "argv", [str(ROOT / "run.py"), *arguments]):
        runpy.run_path(str(ROOT / "run.py"), run_name="__main__")


@contextmanager
def deep_resnet(blocks: int) -> Iterator[None]:
    """``model=resnet110`` builds a network of ``3 * blocks`` blocks, one stage for each."""
    from thinet.models import cifar_resnet

    own = cifar_resnet._stage

    def stage(fewer: int, width_in: int, width: int, stride: int) -> Any:
        return own(blocks, width_in, width, stride)

    with mock.patch.object(cifar_resnet, "_stage", stage):
        yield


def write_images(folder: Path, each: int = 8) -> None:
    """A few of scikit-learn's digits as class folders: a stage is to take a second."""
    from PIL import Image
    from sklearn.datasets import load_digits

    found = load_digits()
    for digit in range(10):
        for part in ("train", "test"):
            (folder / part / str(digit)).mkdir(parents=True)
        for place, pixels in enumerate(found.images[found.target == digit][: 2 * each]):
            picture = Image.fromarray((pixels * 15.9).astype("uint8")).convert("RGB")
            part = "train" if place % 2 else "test"
            picture.save(folder / part / str(digit) / f"{place}.png")


def measure_stages(outputs: Path, blocks: int = 34, *overrides: str) -> list[dict[str, Any]]:
    """One run with a stage for each block; a row after every stage."""
    from thinet.run import steps

    rows: list[dict[str, Any]] = []
    own = steps.log_step

    def log_step(loggers: Any, figures: dict[str, Any], step: int) -> None:
        own(loggers, figures, step)
        rows.append(
            {"part": "stages", "place": len(rows) + 1, "seconds": figures["seconds"],
             "peak_mb": figures["peak_memory_mb"], **holding(), **on_disk(outputs / "deep")}
        )  # fmt: skip

    write_images(outputs / "images")
    with deep_resnet(blocks), mock.patch.object(steps, "log_step", log_step):
        command_line(
            f"paths.outputs={outputs}", "name=deep", "model=resnet110", *SMALL, "dataset=folder",
            f"dataset.root={outputs / 'images'}", "dataset.num_workers=0",
            "dataset.val_fraction=0.2", *overrides,
        )  # fmt: skip
    return rows


def measure_sweep(
    outputs: Path, points: int = 50, *overrides: str, logger: str
) -> list[dict[str, Any]]:
    """A sweep over seeds in this process; a row after every point."""
    from thinet.sweeps.callback import SweepCallback

    rows: list[dict[str, Any]] = []
    own = SweepCallback.on_job_end

    def on_job_end(self: SweepCallback, *args: Any, **kwargs: Any) -> None:
        own(self, *args, **kwargs)
        rows.append({"part": f"sweep, {logger}", "place": len(rows) + 1, **holding()})

    with mock.patch.object(SweepCallback, "on_job_end", on_job_end):
        command_line(
            "-m", f"paths.outputs={outputs}", *SMALL, *TINY, "schedule=oneshot",
            f"logger={logger}", f"seed=range({points})", *overrides,
        )  # fmt: skip
    return rows


PARTS: dict[str, Callable[..., list[dict[str, Any]]]] = {
    "stages": measure_stages,
    "csv": partial(measure_sweep, logger="csv"),
    "wandb": partial(measure_sweep, logger="wandb"),
}


def main(words: Sequence[str] | None = None) -> None:
    """Measure one part and put its rows into ``results.csv``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=[*PARTS])
    parser.add_argument("--keep", type=Path, help="where the runs are left")
    parser.add_argument("--out", type=Path, default=HERE, help="where results.csv goes")
    parser.add_argument("--count", type=int, help="blocks of a stage, or points of a sweep")
    chosen = parse(parser, words, count=1)
    with tempfile.TemporaryDirectory() as folder:
        outputs = (chosen.keep or Path(folder)).absolute()
        rows = PARTS[chosen.part](outputs, *([] if chosen.count is None else [chosen.count]))
    path = chosen.out / "results.csv"
    others: list[dict[str, Any]] = []
    if path.exists():
        with open(path, newline="") as file:
            others = [row for row in csv.DictReader(file) if row["part"] != rows[0]["part"]]
    names = list(dict.fromkeys(key for row in [*others, *rows] for key in row))
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, names, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(
            {k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()}
            for row in [*others, *rows]
        )


if __name__ == "__main__":
    main()
