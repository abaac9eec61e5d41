"""Train the slim network from random weights: what are the pruned network's weights worth?

The network has the widths that ``method=prune`` would leave with the same ratio or target, and it
gets as many epochs as the pruned network gets in all, unless ``method.epochs`` says otherwise
(``scratch-E`` of Liu et al. 2019, Rethinking the Value of Network Pruning; their ``scratch-B`` gets
as many FLOPs instead, for half the FLOPs twice the epochs).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from thinet.artifacts.names import saved_folder
from thinet.artifacts.store import save
from thinet.base.errors import ThinetError
from thinet.base.messages import say
from thinet.engine.phases import Phase
from thinet.pruning.plan import needs_network
from thinet.run.session import Run
from thinet.run.setup import Job
from thinet.surgery import remove_, trace
from thinet.training.source import build_network, evaluate_fully, measure, network_spec

CUTS = True


def scratch(run: Run) -> dict[str, Any]:
    """Run the method; see :func:`thinet.pruning.method.prune` for what it returns.

    The baseline has costs but no accuracy, since the full network is not trained.
    """
    run.begin()
    full = build_network(run.job)
    shape = tuple(run.job.data.input_shape)
    accuracies = dict.fromkeys(("top1", "top5", "val_top1", "val_top5"))
    run.state.baseline = {**accuracies, **measure(run.engine, full, shape)}
    counts = {name: count for stage in run.plan.stages for name, count in stage.counts.items()}
    network = cut_fresh_(full.cpu(), counts, torch.zeros(1, *shape))
    phase = training_phase(run)
    say(f"scratch: training the slim network for {phase.epochs} epochs from random weights")
    own = run.stage_folder(0)
    run.engine.fit(network, [phase], run.job.baseline.training, "scratch", own)
    slim = evaluate_fully(run.job, run.engine, network)
    layers = [
        {**row, "stage": 0, "kept": list(range(row["filters_after"]))}
        | dict.fromkeys(("rows", "error", "error_corrected"))
        for row in run.plan.rows
    ]
    if run.writes:
        kept = {row["layer"]: row["kept"] for row in layers}
        save(network, run.folder / "model", network_spec(run.job, kept, metrics=slim))
    run.save_state()
    run.engine.clear(own)
    return {
        "weights_by_process": run.engine.digests(network),
        "baseline": run.state.baseline,
        "slim": slim,
        "before_finetuning": None,
        "stages": [],
        "layers": layers,
    }


def check(job: Job) -> None:
    """Refuse what has no answer without trained weights.

    Raises:
        ThinetError: If the widths depend on a trained network, or weights of a slim one are given.
    """
    if needs_network(job):
        raise ThinetError(
            "method=scratch cannot find widths by error or latency, which take a trained network: "
            "give the widths of a finished run with ratio=@outputs/<name>, or a plain ratio."
        )
    if saved_folder(job.model.weights) is not None:
        raise ThinetError(
            f"method=scratch trains from random weights, but model.weights={job.model.weights} is "
            "a saved network: for its widths type ratio=@<its run folder> model.weights=none."
        )


def training_phase(run: Run) -> Phase:
    """The baseline's phase, with as many epochs as baseline and fine-tuning take together."""
    asked = run.job.config["method"]["epochs"]
    own = run.job.baseline.phase
    everything = own.epochs + sum(stage.epochs for stage in run.plan.stages)
    return replace(own, epochs=everything if asked is None else asked)


@torch.no_grad()
def cut_fresh_(network: nn.Module, counts: Mapping[str, int], image: Tensor) -> nn.Module:
    """Cut a randomly initialised network and give its weights the size that suits their new inputs.

    A weight drawn for 512 inputs is too small for 256: each tensor is multiplied by the square
    root of the ratio of its inputs per output, which leaves the variance of every layer's output as
    the initialisation chose it (He et al. 2015).

    Args:
        network: At full width; changed in place.
        counts: Units that stay in each group.
        image: ``(1, C, H, W)``, to trace with.

    Returns:
        ``network``.
    """
    before = {
        name: weight[0].numel() for name, weight in network.named_parameters() if weight.dim() > 1
    }
    graph = trace(network, image)
    remove_(network, graph, {name: range(count) for name, count in counts.items()})
    for name, weight in network.named_parameters():
        if weight.dim() > 1:
            weight.mul_((before[name] / weight[0].numel()) ** 0.5)
    return network
