"""Generators that are trained once and kept for other runs, beside the cached baselines."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

from torch import nn

from thinet.artifacts.store import dump_state
from thinet.base.errors import ThinetError
from thinet.base.folders import check_own
from thinet.base.messages import say
from thinet.datasets.steps import Steps
from thinet.engine.engine import Engine
from thinet.run.lock import one_at_a_time
from thinet.run.setup import Setup
from thinet.synthesis.generator import Generator
from thinet.synthesis.read import Recipe
from thinet.synthesis.stored import MADE, load_generator
from thinet.synthesis.training import FOLDER, Teaching

CACHE = ".generators"
"""Folder beside the cached baselines."""


def kept_generator(
    setup: Setup, engine: Engine, recipe: Recipe, network: nn.Module, counted: bool = False
) -> Generator:
    """A generator trained against a network, by this run or by an earlier one.

    A killed training goes on after its last epoch, in whichever run needs it next.

    Args:
        setup: Of the run.
        engine: Trains it.
        recipe: How.
        network: Whom it is trained against; on the CPU afterwards.
        counted: Whether the run has counted the steps of this training already.
    """
    folder = setup.source.cache.parent / CACHE / _mark(setup, engine, recipe, network)
    lock = folder.with_name(f"{folder.name}.lock")
    check_own(folder, lock)
    wait = partial(say, "generator: another run is training it; waiting for that one")
    with one_at_a_time(lock, engine.rank == 0, engine.agree, wait):
        found = _read(engine, folder)
        if found is None:
            return _train(setup, engine, recipe, network, folder)
        engine.clear(folder / "fit")  # a kill may have come before it was removed
    if not counted:
        course = recipe.settings.course
        steps = Steps(course.iterations * course.generator_steps)
        engine.count_trained([recipe.generator.phase], steps)
    return found


def _train(
    setup: Setup, engine: Engine, recipe: Recipe, network: nn.Module, folder: Path
) -> Generator:
    course = recipe.settings.course
    say(
        f"generator: training it against the network, {course.epochs * course.iterations:,} "
        f"iterations of {course.batch_size} images"
    )
    teaching = Teaching(setup, engine, recipe, network, folder)
    teaching.generator_alone(folder / "fit")
    engine.clear(folder / "fit")
    say(f"generator: kept in {folder}")
    return teaching.generator


def _read(engine: Engine, folder: Path) -> Generator | None:
    """One that was trained before; None if there is none, or it is damaged."""
    marker = folder / FOLDER / MADE

    def judge() -> bool:
        if not marker.exists():
            return False
        try:
            load_generator(folder / FOLDER)
        except ThinetError as error:
            say(f"generator: {error} Training it again.")
            marker.unlink()
            return False
        say(f"generator: trained before, from {folder}")
        return True

    if not engine.decide(judge) or not engine.exists(marker):
        return None
    return load_generator(folder / FOLDER)


def _mark(setup: Setup, engine: Engine, recipe: Recipe, network: nn.Module) -> str:
    """A name for all that a generator depends on."""
    settings, turn, devices = recipe.settings, recipe.generator, setup.devices
    make = turn.training.make_optimizer
    content = {
        "weights": hashlib.sha256(dump_state(network)).hexdigest(),
        "network": f"{setup.source.target} {dict(setup.source.arguments)}",
        "shape": list(setup.data.input_shape),
        "course": asdict(replace(settings.course, mode="generator_first", student_steps=1)),
        "drawing": asdict(settings.drawing),
        "losses": asdict(replace(settings.losses, learn="kl", temperature=1.0)),
        "phase": asdict(turn.phase),
        "optimizer": f"{make.func.__module__}.{make.func.__name__} {make.keywords}"  # type: ignore
        if isinstance(make, partial)
        else repr(make),
        "clip_norm": turn.training.clip_norm,
        "seed": setup.seed,
        "where": [engine.device.type, engine.world, devices.precision, devices.max_steps_per_epoch],
    }
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
