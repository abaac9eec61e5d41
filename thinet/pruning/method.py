"""Prune stage by stage: choose, cut, correct, fine-tune, next; then test and save."""

from __future__ import annotations

import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from thinet.artifacts.store import dump_state, save
from thinet.base.errors import DivergedError
from thinet.base.files import read_json, write_bytes_atomic, write_json_atomic
from thinet.base.messages import say
from thinet.engine.logging.sending import log_step
from thinet.engine.settings import Accuracy
from thinet.metrics import PeakMemory, latencies_ms
from thinet.pruning.calibrate import calibrate
from thinet.pruning.find_widths import find_counts
from thinet.pruning.group import Calibration, prune_group_
from thinet.pruning.inspection import inspecting
from thinet.pruning.plan import make_plan, show_plan, try_stages
from thinet.pruning.reconstruction import recalibrate_
from thinet.pruning.stages import Stage
from thinet.pruning.statistics import Reference
from thinet.run.session import Run
from thinet.run.setup import Job
from thinet.surgery import trace
from thinet.training.last_good import BASELINE, keep_last_good, last_good
from thinet.training.source import (
    baseline_metrics,
    build_network,
    evaluate_fully,
    measure,
    network_spec,
    prepare_baseline,
    restore_network,
)

CUTS = True


def check(job: Job) -> None:
    """Every configuration will do."""


def prune(run: Run) -> dict[str, Any]:
    """Run the method; finished stages of an earlier attempt are not repeated.

    Returns:
        ``baseline``, ``slim``, ``before_finetuning``, ``stages`` and ``layers`` of the result, and
        ``weights_by_process``: the digest of the final weights on each process.
    """
    network = _start(run)
    if run.found_plan is None:
        run.state.counts = find_counts(run.job, run.engine, network)
        run.found_plan = make_plan(run.job, run.state.counts)
        if run.writes:
            show_plan(run.found_plan)
        run.save_state()
    left = run.plan.stages[len(run.state.stages) :]
    run.engine.decide(lambda: try_stages(network, left, run.job.data.examples()))
    for stage in left:
        network = _stage(run, network, stage)
    slim = _slim_metrics(run, network)
    assert run.state.baseline is not None
    # Side by side: the baseline's first figure was taken minutes or days ago.
    full = build_network(run.job).to(run.engine.device)
    pair = latencies_ms([full, network], tuple(run.job.data.input_shape))
    run.state.baseline["latency_ms"], slim["latency_ms"] = pair
    if run.writes:
        spec = network_spec(run.job, run.state.kept, metrics=slim)
        save(network, run.folder / "model", spec)
    run.engine.barrier()
    return {
        "weights_by_process": run.engine.digests(network),
        "baseline": run.state.baseline,
        "slim": slim,
        "before_finetuning": run.state.before_finetuning,
        "stages": run.state.stages,
        "layers": _final_layers(run),
    }


def _slim_metrics(run: Run, network: nn.Module) -> dict[str, Any]:
    """Figures of the final network; those measured right after the last cut may still hold."""
    last, known = run.state.stages[-1], run.state.before_finetuning
    if last["epochs"] or known is None:
        return evaluate_fully(run.job, run.engine, network)
    return {
        **(known["recalibrated"] or known["plain"]),
        "val_top1": last["top1"],
        "val_top5": last["top5"],
        **measure(run.engine, network, tuple(run.job.data.input_shape)),
    }


def _start(run: Run) -> nn.Module:
    """The network as the last finished stage left it, or the baseline."""
    run.begin()
    done = len(run.state.stages)
    if run.state.baseline is None:
        network = prepare_baseline(run.job, run.engine, run.folder)
        run.state.baseline = baseline_metrics(run.job, run.engine, network)
        if run.writes:
            write_bytes_atomic(run.folder / BASELINE, dump_state(network))
        run.save_state()
    else:
        network = restore_network(run.job, run.engine, last_good(run))
        planned = f" of {len(run.plan.stages)}" if run.found_plan is not None else ""
        say(f"resuming after {done}{planned} stages")
    say(f"baseline: test top-1 {100 * run.state.baseline['top1']:.2f} %")
    return network


def _stage(run: Run, network: nn.Module, stage: Stage) -> nn.Module:
    began, memory = time.monotonic(), PeakMemory(run.engine.device)
    folder = run.stage_folder(stage.index)
    network, cut = _cut(run, network, stage, folder)
    accuracy = _best_known(cut)
    if stage.phases:
        try:
            accuracy = run.engine.fit(
                network, stage.phases, run.job.training, f"stage {stage.name}", folder / "fit"
            )
        except DivergedError as error:
            raise keep_last_good(run, error) from error
    _finish(run, network, stage, cut, accuracy, time.monotonic() - began, memory)
    return network


def _cut(
    run: Run, network: nn.Module, stage: Stage, folder: Path
) -> tuple[nn.Module, dict[str, Any]]:
    """Cut the stage's layers, or take up the cut that an earlier attempt made."""
    record, weights = folder / "cut.json", folder / "cut.safetensors"
    if run.engine.exists(record):
        cut: dict[str, Any] = run.engine.decide(lambda: read_json(record))
        return restore_network(run.job, run.engine, weights), cut
    network.to(run.engine.device)
    calibration = calibrate(run.engine, run.job.sampling, run.job.batch_size)
    if run.job.reconstruction.aims_at_original:
        calibration = replace(calibration, reference=_reference(run))
    graph = trace(network, calibration.images[0][None].to(run.engine.device))
    layers: list[dict[str, Any]] = []
    before_cut = inspecting(run, calibration.images)
    for name, count in stage.counts.items():
        after_cut = before_cut(network, graph.groups[name])
        records, graph = prune_group_(
            network,
            graph,
            name,
            count,
            run.job.criterion,
            run.job.reconstruction,
            calibration,
            recalibrate=run.job.recalibrate_bn == "each",
        )
        after_cut(network, records[0].kept)
        layers += [asdict(record) for record in records]
        for layer in layers[-len(records) :]:
            say(_describe(stage, layer, run))
    cut = {"layers": layers, **_judge_cut(run, network, stage, calibration)}
    if run.writes:
        write_bytes_atomic(weights, dump_state(network))
        write_json_atomic(record, cut)
    run.engine.barrier()
    return network, cut


def _reference(run: Run) -> Reference:
    """The full network, and which of its filters are left by now."""
    network = restore_network(run.job, run.engine, run.folder / BASELINE).to(run.engine.device)
    layers = trace(network, torch.zeros(1, *run.job.data.input_shape).to(run.engine.device)).layers
    reference = Reference(network)
    for name, kept in run.state.kept.items():
        reference.note(layers[name], kept)
    return reference


def _judge_cut(
    run: Run, network: nn.Module, stage: Stage, calibration: Calibration
) -> dict[str, Any]:
    """Accuracy before fine-tuning, without and with recalibrated BatchNorm."""
    last = stage.index == len(run.plan.stages) - 1
    found: dict[str, Any] = {"recalibrated": None, "test_recalibrated": None, "test_plain": None}
    found["plain"] = asdict(run.engine.evaluate(network, "val"))
    if last:
        found["test_plain"] = asdict(run.engine.evaluate(network, "test"))
    network.to(run.engine.device)
    if run.job.recalibrate_bn != "never" and recalibrate_(network, calibration.batches()):
        found["recalibrated"] = asdict(run.engine.evaluate(network, "val"))
        if last:
            found["test_recalibrated"] = asdict(run.engine.evaluate(network, "test"))
    return found


def _best_known(cut: dict[str, Any]) -> Accuracy:
    return Accuracy(**(cut["recalibrated"] or cut["plain"]))


def _describe(stage: Stage, layer: dict[str, Any], run: Run) -> str:
    text = (
        f"stage {stage.index + 1}/{len(run.plan.stages)}: {layer['layer']} keeps "
        f"{len(layer['kept'])} of {layer['filters_before']} filters"
    )
    if layer["rows"] is not None:
        text += f", from {layer['rows']} rows"
    if layer["error"] is not None:
        text += f", relative error {layer['error']:.3f}"
    if layer["error_corrected"] is not None:
        text += f" ({layer['error_corrected']:.3f} corrected)"
    return text


def _finish(
    run: Run,
    network: nn.Module,
    stage: Stage,
    cut: dict[str, Any],
    accuracy: Accuracy,
    seconds: float,
    memory: PeakMemory,
) -> None:
    """Record a finished stage; only then is what it needed to resume removed."""
    state, baseline = run.state, run.state.baseline
    assert baseline is not None
    costs = measure(run.engine, network, tuple(run.job.data.input_shape))
    recalibrated = cut["recalibrated"] or {"top1": None, "top5": None}
    row = {
        "index": stage.index,
        "name": stage.name,
        "layers": list(stage.counts),
        "epochs": stage.epochs,
        "seconds": seconds,
        "peak_memory_mb": memory.mb(),
        "peak_memory_of": memory.of,
        "compression_rate": 1 - costs["flops"] / baseline["flops"],
        **costs,
        **{f"{key}_plain": value for key, value in cut["plain"].items()},
        **{f"{key}_recalibrated": value for key, value in recalibrated.items()},
        **asdict(accuracy),
    }
    for layer in cut["layers"]:
        state.kept[layer["layer"]] = layer["kept"]
        state.layers.append({"stage": stage.index, **layer})
    state.stages.append(row)
    if cut["test_plain"] is not None:
        state.before_finetuning = {
            "plain": cut["test_plain"],
            "recalibrated": cut["test_recalibrated"],
        }
    folder = run.stage_folder(stage.index)
    if run.writes:
        write_bytes_atomic(folder / "model.safetensors", dump_state(network))
    run.save_state()
    _clean_up(run, stage.index)
    numbers = {key: one for key, one in row.items() if isinstance(one, int | float)}
    numbers.pop("index")
    log_step(run.engine.loggers, numbers, run.engine.step)
    before = f"{100 * row['top1_plain']:.2f} % before"
    if row["top1_recalibrated"] is not None:
        before += f" ({100 * row['top1_recalibrated']:.2f} % recalibrated)"
    say(
        f"stage {stage.index + 1}/{len(run.plan.stages)}: validation top-1 {before}, "
        f"{100 * row['top1']:.2f} % after {stage.epochs} epochs of fine-tuning; "
        f"{100 * row['compression_rate']:.1f} % of the FLOPs removed"
    )


def _clean_up(run: Run, index: int) -> None:
    if not run.writes:
        return
    folder = run.stage_folder(index)
    run.engine.clear(folder / "fit")
    (folder / "cut.json").unlink(missing_ok=True)
    (folder / "cut.safetensors").unlink(missing_ok=True)
    if not run.job.keep_stages:
        last = index == len(run.plan.stages) - 1
        done = [run.stage_folder(index - 1) / "model.safetensors"]
        if last or not run.job.reconstruction.aims_at_original:
            done.append(run.folder / BASELINE)
        for path in done:
            path.unlink(missing_ok=True)


def _final_layers(run: Run) -> list[dict[str, Any]]:
    """The layer records with what the layers cost in the end."""
    planned = {row["layer"]: row for row in run.plan.rows}
    return [
        {
            "stage": layer["stage"],
            **planned[layer["layer"]],
            "kept": layer["kept"],
            "rows": layer["rows"],
            "error": layer["error"],
            "error_corrected": layer["error_corrected"],
        }
        for layer in run.state.layers
    ]
