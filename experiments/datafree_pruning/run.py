"""What are images worth to pruning? Real ones, those of a generator, and noise.

Usage: python -m experiments.datafree_pruning.run
       python -m experiments.datafree_pruning.run --networks resnet56 \
           --root data/cifar10 --weights <saved network>
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from experiments.cifar import append_row, arguments, has_row, read_rows, splice
from experiments.datafree_pruning.tables import draw, tables
from experiments.smoke import parse
from thinet.app.config import build, check
from thinet.base.records import from_json
from thinet.engine.engine import Engine
from thinet.engine.log_levels import silence_lightning
from thinet.report.sections.pruning import PruningDetails
from thinet.run.identity import fingerprint, register_resolvers, run_folder
from thinet.run.result import Outcome
from thinet.run.session import Session
from thinet.run.state import RunState

HERE = Path(__file__).parent
CONF = HERE.parents[1] / "conf"
REAL, GENERATED, NOISE = "images", "generated", "noise"
PAIRS = (
    (REAL, REAL), (GENERATED, GENERATED), (NOISE, NOISE), (GENERATED, REAL), (REAL, GENERATED),
)  # fmt: skip
"""Calibration and recovery; the first of equal ones, since those are the question."""
COMMON = (
    "experiment=prune_datafree", "trainer=cpu", "trainer.progress=off", "synthesis.course.epochs=8",
)  # fmt: skip
NETWORKS = {
    "digits": ("model=vgg_small", "dataset=digits"),
    "resnet56": (
        "model=resnet56", "dataset=folder", "dataset.val_fraction=0.02", "dataset.num_workers=0",
        "dataset.calibration_per_class=50", "synthesis.course.iterations=39",
        "finetune.batch_size=128", "finetune.final.epochs=3", "finetune.final.lr=0.01",
        "trainer.max_steps_per_epoch=39",
    ),
}  # fmt: skip
"""39 steps of 128 images are an epoch of 5,000, of the real ones too."""
SMOKE = (
    "model.build.widths=[4,8]", "model.paper_layers=[features.0,features.3]",
    "dataset.image_size=8", "baseline.epochs=1", "finetune.final.epochs=1",
    "trainer.max_steps_per_epoch=2", "dataset.calibration_per_class=2",
    "synthesis.course.epochs=1", "synthesis.course.batch_size=16", "synthesis.drawing.width=4",
)  # fmt: skip


@dataclass(frozen=True)
class Task:
    """One row.

    Attributes:
        network: Of :data:`NETWORKS`.
        calibration: Where the images come from that cuts are chosen and corrected on.
        recovery: Where those come from that the network recovers on.
        seed: Of everything random.
    """

    network: str
    calibration: str
    recovery: str
    seed: int


def work(networks: Sequence[str], seeds: Sequence[int], pairs: int) -> Iterator[Task]:
    """All rows, so that after each seed the tables are worth reading."""
    for seed in seeds:
        for network in networks:
            yield from (Task(network, first, second, seed) for first, second in PAIRS[:pairs])


def overrides(task: Task, options: Any) -> list[str]:
    """What would be typed behind ``python run.py``."""
    found = [*COMMON, *NETWORKS[task.network], f"seed={task.seed}"]
    found += [f"calibration.source={task.calibration}", f"finetune.source={task.recovery}"]
    if task.recovery == REAL:
        found.append("distill=kd")  # the same teacher, and labels beside it
    if task.network != "digits":
        found += [f"dataset.root={options.root}", f"model.weights={options.weights}"]
    if options.smoke:
        found += SMOKE
    folder = options.out if options.smoke else options.work
    return [*found, f"paths.outputs={folder}", f"paths.cache={folder}/.cache"]


def prune(words: Sequence[str]) -> Outcome:
    """The run that would be typed; a killed one goes on."""
    register_resolvers()
    silence_lightning()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config", list(words))
    setup, method = build(check(cfg))
    folder = run_folder(cfg)
    folder.mkdir(parents=True, exist_ok=True)
    state = RunState.load(folder, fingerprint(cfg))
    engine = Engine(setup.data, setup.devices, [], setup.seed, state.step, setup.evaluate)
    progress = from_json(method.remembers, state.progress)
    plan = method.plan(setup, progress)
    return method.run(Session(setup, engine, state, folder, progress), plan)


def measure(task: Task, options: Any) -> dict[str, Any]:
    """The figures of a row, accuracies on the test set in percent."""
    began = time.process_time()
    found = prune(overrides(task, options))
    details = found.details["pruning"]
    assert isinstance(details, PruningDetails)
    before = details.before_finetuning
    assert found.model is not None
    assert before is not None
    assert before.recalibrated is not None
    return {
        "baseline": _percent(found.reference.top1),
        "as_cut": _percent(before.plain.top1),
        "recalibrated": _percent(before.recalibrated.top1),
        "recovered": _percent(found.model.top1),
        "flops": found.model.flops / found.reference.flops,
        "seconds": time.process_time() - began,
    }


def _percent(value: float | None) -> float:
    assert value is not None
    return 100 * value


def fill(path: Path, tasks: Iterator[Task], row_of: Any) -> None:
    """Measure what is missing."""
    for task in tasks:
        mark: Mapping[str, Any] = vars(task)
        if has_row(read_rows(path), mark):
            continue
        row = {**mark, **row_of(task)}
        append_row(path, row)
        print(row, flush=True)


def main(words: Sequence[str] | None = None) -> None:
    """Measure what is missing in ``results.csv``; then the tables."""
    parser = arguments(__doc__, HERE)
    parser.add_argument("--networks", nargs="+", default=["digits"], choices=[*NETWORKS])
    parser.add_argument("--work", type=Path, default=HERE / "work", help="where runs are kept")
    parser.add_argument("--pairs", type=int, default=len(PAIRS), help="the first so many")
    options = parse(parser, words, seeds=[0], pairs=2)
    given = options.root is not None and options.weights is not None
    if not options.smoke and not options.draw and "resnet56" in options.networks and not given:
        parser.error("resnet56 takes --root <folder with train/ and test/> and --weights <network>")
    torch.set_num_threads(options.threads)
    path = options.out / "results.csv"
    if not options.draw:
        tasks = work(options.networks, options.seeds, options.pairs)
        fill(path, tasks, lambda task: measure(task, options))
    rows = read_rows(path)
    text = tables(rows)
    draw(rows, options.out / "figure.png")
    if options.out == HERE:
        splice(HERE / "README.md", text)
    print(text)


if __name__ == "__main__":
    main()
