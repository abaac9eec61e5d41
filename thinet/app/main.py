"""One run from start to finish: check, plan, resume, work, report."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from thinet.app import config as configuration
from thinet.app import processes
from thinet.app.finish import make_result, report, show
from thinet.base import lifeline
from thinet.base.errors import ThinetError
from thinet.base.files import write_text_atomic
from thinet.base.messages import is_first_process, logging_to, say
from thinet.base.records import Config, from_json
from thinet.run.folders import RECORDS, taken, unshare
from thinet.run.identity import fingerprint, record_of, run_folder
from thinet.run.lock import run_lock
from thinet.run.result import RESULT, Result, read_result
from thinet.run.state import STATE, RunState

if TYPE_CHECKING:
    from thinet.run.method import Method


def run(cfg: DictConfig) -> float | None:
    """Run what the configuration says.

    Returns:
        Validation top-1 accuracy of the final network, the objective for sweepers (never test);
        None for a dry run, and where there are no images.

    Raises:
        ThinetError: If something is wrong that the user can put right.
    """
    config = configuration.check(cfg)
    _refuse_nested_processes(cfg, config)
    folder, mark = run_folder(cfg), fingerprint(cfg)
    if config["dry_run"]:
        with logging_to(None):
            _dry_run(config, folder)
        return None
    if not is_first_process():
        folder.mkdir(parents=True, exist_ok=True)
        return _run(cfg, config, mark, folder)
    lock = run_lock(folder, wait=_in_sweep())
    with taken(folder, mark), lock:
        unshare(folder)
        with logging_to(folder):
            return _run(cfg, config, mark, folder)


def _in_sweep() -> bool:
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def _refuse_nested_processes(cfg: DictConfig, config: Config) -> None:
    """Settle where a point of a sweep runs, and refuse what would start the sweep again."""
    from hydra.core.hydra_config import HydraConfig

    if not _in_sweep():
        return
    launcher, trainer = HydraConfig.get().launcher, config["trainer"]
    launched = processes.launched_processes(os.environ)
    if launched is None:
        if trainer["devices"] != 1 or trainer["num_nodes"] != 1:
            raise ThinetError(
                "a sweep runs each point on one device, since the processes of a point would start "
                "the sweep again: type trainer.devices=1 with -m, or let SLURM start them with "
                "sweep=submitit (sweep=submitit_local on this machine)."
            )
        worker = any(name in launcher["_target_"] for name in ("joblib", "ray"))
        if worker and trainer["accelerator"] != "cpu" and not config["dry_run"]:
            processes.claim_gpu(os.environ)
        return
    wanted = trainer["devices"] if trainer["devices"] == "auto" else _world(trainer)
    if launched != wanted:
        raise ThinetError(
            f"the launcher started {launched} processes for this point, and trainer.devices="
            f"{trainer['devices']} (on {trainer['num_nodes']} machines) needs others: give "
            "trainer.devices as one number for the whole sweep, not as one of its values."
        )
    processes.name_ranks(os.environ)
    processes.limit_threads(os.environ, launcher)


def _world(trainer: dict[str, Any]) -> int:
    return int(trainer["devices"]) * int(trainer["num_nodes"])


def _dry_run(config: Config, folder: Path) -> None:
    """Print the plan. Without the network's data it can be made only if ratios are given."""
    setup, method = configuration.build(config)

    def trained() -> tuple[Any, Any]:
        from thinet.engine.engine import Engine
        from thinet.engine.log_levels import silence_lightning
        from thinet.training.source import prepare_network

        silence_lightning()
        setup.data.check()
        engine = Engine(setup.data, setup.devices, [], setup.seed, evaluation=setup.evaluate)
        engine.start_processes()
        return engine, prepare_network(setup, engine, folder)

    method.preview(setup, trained)


def _run(cfg: DictConfig, config: Config, fingerprint: str, folder: Path) -> float | None:
    say(f"run: {folder}")
    if config["resume"] == "off" and is_first_process():
        for leftover in ("state.json", RESULT, "metrics.csv", "layers.csv", "failure.json"):
            (folder / leftover).unlink(missing_ok=True)
        shutil.rmtree(folder / "steps", ignore_errors=True)
    anew = config["resume"] == "off"  # another process may not have removed the old state yet
    state = RunState(fingerprint) if anew else RunState.load(folder, fingerprint)
    done = state.status == "complete" and (folder / RESULT).exists()
    if done and not processes.launched_together(os.environ):
        return _show_again(read_result(folder), folder)
    if is_first_process() and not done:
        _record(cfg, folder / RECORDS)
    return _work(config, state, folder, done)


def _show_again(result: Result, folder: Path) -> float | None:
    say("this configuration has been run before; resume=off runs it again")
    return show(result, folder)


def _record(cfg: DictConfig, folder: Path) -> None:
    """Write what Hydra would write by itself, before anything had been judged."""
    from hydra.core.hydra_config import HydraConfig

    if not HydraConfig.initialized():
        return
    hydra = HydraConfig.instance().cfg
    overrides = HydraConfig.get().overrides.task
    for name, content in (("config", cfg), ("hydra", hydra), ("overrides", overrides)):
        write_text_atomic(folder / f"{name}.yaml", OmegaConf.to_yaml(content))


def _work(config: Config, state: RunState, folder: Path, done: bool) -> float | None:
    from thinet.engine.engine import Engine
    from thinet.engine.log_levels import silence_lightning
    from thinet.engine.logging.loggers import close
    from thinet.engine.logging.sending import log_config
    from thinet.run.session import Session
    from thinet.training.evaluation import check_search

    silence_lightning()
    setup, method = configuration.build(config)
    engine = Engine(setup.data, setup.devices, [], setup.seed, evaluation=setup.evaluate)
    progress = _progress(method, state, folder)
    if processes.launched_together(os.environ):
        # Each process came here by itself, and may not see yet what another one has written.
        engine.start_processes()
        state, progress, done = engine.agree((state, progress, done))
        if done:
            return _show_again(engine.decide(lambda: read_result(folder)), folder)
        _compare_images(engine.gather(setup.data.identity()))
    state.check_data(setup.data.identity())
    check_search(setup)
    plan = method.plan(setup, progress)
    if is_first_process():
        method.show(plan)
        state.save(folder)  # before anything else lies in the folder, which says whose it is
    engine.loggers, engine.step = _loggers(config, folder, state), state.step
    status = "failed"
    try:
        log_config(engine.loggers, record_of(config))
        session = Session(setup, engine, state, folder, progress)
        outcome = method.run(session, plan)
        session.count_time()
        state = session.state
        left_out = engine.gather(list(setup.data.unreadable.found))
        unreadable = sorted({path for paths in left_out for path in paths})
        result = make_result(config, setup, outcome, state, tuple(unreadable))
        objective = report(result, folder, engine.loggers) if is_first_process() else None
        state.status = "complete"
        session.save()
        status = "success"
    finally:
        with lifeline.patiently():  # dashboards are waited for as long as the configuration says
            close(engine.loggers, status)
    return objective


def _progress(method: Method[Any, Any], state: RunState, folder: Path) -> Any:
    """What the method remembers of an earlier attempt."""
    try:
        return from_json(method.remembers, state.progress)
    except ValueError as error:
        raise ThinetError(
            f"{folder / STATE} is not the state of a run: type resume=off to start anew."
        ) from error


def _compare_images(found: list[dict[str, str]]) -> None:
    """Refuse processes that see different images, on all of them."""
    if any(one != found[0] for one in found):
        other = next(place for place, one in enumerate(found) if one != found[0])
        raise ThinetError(
            f"processes 0 and {other} of this run see different images: give all machines the same "
            "dataset.root."
        )


def _loggers(config: Config, folder: Path, state: Any) -> list[Any]:
    from thinet.engine.logging.dashboards import DASHBOARDS
    from thinet.engine.logging.loggers import RunCSVLogger

    chosen = config.get("logger") or {}
    made: list[Any] = [RunCSVLogger(folder)]
    for name, settings in chosen.items():
        made.append(DASHBOARDS[name](settings or {}, folder, config["name"], state.run_id))
    return made
