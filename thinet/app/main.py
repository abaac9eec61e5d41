"""One run from start to finish: check, plan, resume, work, report."""

from __future__ import annotations

import os
import shlex
import shutil
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from thinet.app import config as configuration
from thinet.app import processes
from thinet.base import lifeline
from thinet.base.errors import ThinetError
from thinet.base.files import read_json, write_json_atomic, write_text_atomic
from thinet.base.messages import is_first_process, logging_to, say
from thinet.run.folders import RECORDS, taken, unshare
from thinet.run.identity import fingerprint, run_folder
from thinet.run.lock import run_lock

RESULT = "result.json"


def run(cfg: DictConfig) -> float | None:
    """Run what the configuration says.

    Returns:
        Validation top-1 accuracy of the final network, the objective for sweepers (never test);
        None for a dry run.

    Raises:
        ThinetError: If something is wrong that the user can put right.
    """
    config = configuration.check(cfg)
    _refuse_nested_processes(cfg, config)
    folder, mark = run_folder(cfg), fingerprint(cfg)
    if config["dry_run"]:
        with logging_to(None):
            _dry_run(configuration.build(config), folder)
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


def _refuse_nested_processes(cfg: DictConfig, config: dict[str, Any]) -> None:
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


def _plan(job: Any, counts: dict[str, int] | None = None) -> Any:
    """Make the plan and print it.

    Returns:
        None if it takes the trained network to make it, or if the method cuts nothing.
    """
    from thinet.pruning.plan import make_plan, needs_network, show_costs, show_plan

    if not _method(job.method).CUTS:
        if is_first_process():
            show_costs(job)
        return None
    if counts is None and needs_network(job):
        return None
    plan = make_plan(job, counts)
    if is_first_process():
        show_plan(plan)
    return plan


def _dry_run(job: Any, folder: Path) -> None:
    """Print the plan. Without the network's data it can be made only if ratios are given."""
    from thinet.engine.engine import Engine
    from thinet.engine.log_levels import silence_lightning
    from thinet.pruning.find_widths import find_counts
    from thinet.training.source import prepare_baseline

    _method(job.method).check(job)
    if _plan(job) is not None or not _method(job.method).CUTS:
        return
    silence_lightning()
    job.data.check()
    say("plan: it depends on the trained network, so the baseline comes first")
    engine = Engine(job.data, job.devices, [], job.seed)
    engine.start_processes()
    network = prepare_baseline(job, engine, folder)
    _plan(job, find_counts(job, engine, network))


def _run(cfg: DictConfig, config: dict[str, Any], fingerprint: str, folder: Path) -> float | None:
    from thinet.run.state import RunState

    say(f"run: {folder}")
    if config["resume"] == "off" and is_first_process():
        for leftover in ("state.json", RESULT, "metrics.csv", "layers.csv", "failure.json"):
            (folder / leftover).unlink(missing_ok=True)
        shutil.rmtree(folder / "stages", ignore_errors=True)
    anew = config["resume"] == "off"  # another process may not have removed the old state yet
    state = RunState(fingerprint) if anew else RunState.load(folder, fingerprint)
    done = state.status == "complete" and (folder / RESULT).exists()
    if done and not processes.launched_together(os.environ):
        return _show_again(read_json(folder / RESULT), folder)
    if is_first_process() and not done:
        _record(cfg, folder / RECORDS)
    return _work(config, state, folder, done)


def _show_again(result: dict[str, Any], folder: Path) -> float:
    say("this configuration has been run before; resume=off runs it again")
    return _show(result, folder)


def _record(cfg: DictConfig, folder: Path) -> None:
    """Write what Hydra would write by itself, before anything had been judged."""
    from hydra.core.hydra_config import HydraConfig

    if not HydraConfig.initialized():
        return
    hydra = HydraConfig.instance().cfg
    overrides = HydraConfig.get().overrides.task
    for name, content in (("config", cfg), ("hydra", hydra), ("overrides", overrides)):
        write_text_atomic(folder / f"{name}.yaml", OmegaConf.to_yaml(content))


def _work(config: dict[str, Any], state: Any, folder: Path, done: bool) -> float | None:
    from thinet.engine.engine import Engine
    from thinet.engine.log_levels import silence_lightning
    from thinet.engine.logging.loggers import close, log_config
    from thinet.run.session import Run

    silence_lightning()
    job = configuration.build(config)
    _method(job.method).check(job)
    engine = Engine(job.data, job.devices, [], job.seed)
    if processes.launched_together(os.environ):
        # Each process came here by itself, and may not see yet what another one has written.
        engine.start_processes()
        state, done = engine.agree((state, done))
        if done:
            return _show_again(engine.decide(lambda: read_json(folder / RESULT)), folder)
        _compare_images(engine.gather(job.data.identity()))
    state.check_data(job.data.identity())
    plan = _plan(job, state.counts)
    if is_first_process():
        state.save(folder)  # before anything else lies in the folder, which says whose it is
    engine.loggers, engine.step = _loggers(config, folder, state), state.step
    status = "failed"
    try:
        log_config(engine.loggers, config)
        work = Run(job, plan, engine, state, folder)
        found = getattr(_method(job.method), job.method)(work)
        work.count_time()
        state = work.state
        result = _result(job, config, found, state)
        left_out = engine.gather(list(job.data.unreadable.found))
        result["unreadable_images"] = sorted({path for paths in left_out for path in paths})
        objective = _report(result, folder, engine.loggers) if is_first_process() else None
        state.status = "complete"
        work.save_state()
        status = "success"
    finally:
        with lifeline.patiently():  # dashboards are waited for as long as the configuration says
            close(engine.loggers, status)
    return objective


def _compare_images(found: list[dict[str, str]]) -> None:
    """Refuse processes that see different images, on all of them."""
    if any(one != found[0] for one in found):
        other = next(place for place, one in enumerate(found) if one != found[0])
        raise ThinetError(
            f"processes 0 and {other} of this run see different images: give all machines the same "
            "dataset.root."
        )


def _method(name: str) -> Any:
    """The module of a method.

    It has the method itself, under its own name; ``CUTS``, whether that cuts filters as planned;
    and ``check(job)``, which refuses what the method cannot do.
    """
    from importlib import import_module

    return import_module(
        {"prune": "thinet.pruning.method", "train": "thinet.training.method"}.get(
            name, f"thinet.pruning.{name}"
        )
    )


def _loggers(config: dict[str, Any], folder: Path, state: Any) -> list[Any]:
    from thinet.engine.logging import loggers

    chosen = config.get("logger") or {}
    made: list[Any] = [loggers.RunCSVLogger(folder)]
    for name, settings in chosen.items():
        make = getattr(loggers, f"make_{name}")
        made.append(make(settings or {}, folder, config["name"], state.run_id))
    return made


def _result(job: Any, config: dict[str, Any], found: dict[str, Any], state: Any) -> dict[str, Any]:
    from thinet.run.environment import environment

    return {
        "format": 1,
        "method": job.method,
        "name": job.name,
        "model": job.model.name,
        **{
            key: config[key]["name"]
            for key in ("dataset", "criterion", "reconstruction", "schedule")
        },
        "ratio": config["target"] or config["ratio"],
        "allocation": config["allocation"],
        "protocol": job.data.preprocessing.protocol(),
        "images": job.data.identity(),
        "seed": job.seed,
        "note": config["note"],
        "command": _command(),
        "config": config,
        "environment": environment(),
        "seconds": state.seconds,
        **found,
    }


def _command() -> str:
    from hydra.core.hydra_config import HydraConfig

    overrides = HydraConfig.get().overrides.task if HydraConfig.initialized() else []
    return shlex.join(["python", "run.py", *overrides])


def _report(result: dict[str, Any], folder: Path, loggers: list[Any]) -> float:
    """Write everything a finished run leaves, mirror it to the dashboards, and show it."""
    from thinet.engine.logging.loggers import log_result
    from thinet.report import draw_figures, write_layers, write_report

    write_json_atomic(folder / RESULT, result)
    write_layers(result, folder)
    figures = draw_figures(result, folder / "figures")
    write_report(result, folder)
    log_result(loggers, result, figures, folder / "model")
    return _show(result, folder)


def _show(result: dict[str, Any], folder: Path) -> float:
    from thinet.report.terminal import print_result

    final = result["slim"] or result["baseline"]
    if is_first_process():
        print_result(result)
        say(f"network: {folder / 'model'}   report: {folder / 'report.html'}")
    return float(final["val_top1"])
