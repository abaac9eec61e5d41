"""The alternation of cuts and fine-tuning: a stage of it, and what is left in the end."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from pathlib import Path

import torch
from torch import nn

from thinet.artifacts.store import Spec, dump_state, read_state, save
from thinet.base.errors import ThinetError
from thinet.base.files import read_json, write_bytes_atomic, write_json_atomic
from thinet.base.messages import say
from thinet.base.records import from_json, to_json
from thinet.engine.settings import Training
from thinet.metrics import latencies_ms
from thinet.pruning.calibrate import calibrate
from thinet.pruning.group import Calibration, LayerRecord, prune_groups_
from thinet.pruning.inspection import inspecting
from thinet.pruning.plan import Plan
from thinet.pruning.settings import Choosing
from thinet.pruning.sources import Supplies
from thinet.pruning.stages import Stage
from thinet.pruning.statistics import Reference
from thinet.report.numbers import percent
from thinet.report.sections.pruning import Accuracy, BeforeFinetuning, LayerRow, PruningDetails
from thinet.run.result import MODEL, Measurement, Outcome
from thinet.run.session import Session
from thinet.run.steps import BASELINE, Done, Keeping, Step, run_steps
from thinet.surgery import recalibrate_, trace
from thinet.training.distilling import Distilling
from thinet.training.images import Fitting
from thinet.training.measurement import evaluate_fully, measure
from thinet.training.source import build_network, network_spec, rebuilt_network
from thinet.training.start import restore

_ACCURACIES = {one.name for one in fields(Accuracy)} | {"val_top1", "val_top5"}


@dataclass
class Progress:
    """What a pruning run has to remember.

    Attributes:
        counts: Kept units of each group, where they were found from the data.
        kept: Kept filters of each cut layer, numbered as in the network that the run began with.
        layers: A record for each cut layer, with the stage it was cut in.
        before_finetuning: Test accuracy in the last stage, before its fine-tuning.
        drawn: Whether the steps are counted that a generator of images was trained for.
    """

    counts: dict[str, int] | None = None
    kept: dict[str, list[int]] = field(default_factory=dict)
    layers: list[tuple[int, LayerRecord]] = field(default_factory=list)
    before_finetuning: BeforeFinetuning | None = None
    drawn: bool = False


@dataclass(frozen=True)
class Cut:
    """What a cut left behind, before any fine-tuning.

    Attributes:
        layers: What happened to each layer.
        plain: Accuracy on validation images, as cut.
        recalibrated: The same with BatchNorm re-estimated; None if it was not.
        test: Accuracy on test images, after the last cut only.
    """

    layers: tuple[LayerRecord, ...]
    plain: Accuracy
    recalibrated: Accuracy | None = None
    test: BeforeFinetuning | None = None

    @property
    def best_known(self) -> Accuracy:
        """With BatchNorm re-estimated, where it was."""
        return self.recalibrated or self.plain


@dataclass(frozen=True)
class Pruning:
    """A pruning run under way.

    Attributes:
        choosing: How filters are chosen, and what replaces them.
        training: Of the fine-tuning.
        session: Of the run.
        plan: What is cut in which stage.
        learning: How fine-tuning trains.
        distilling: The settings behind it.
        supplies: The images; None where every stage is finished.
        needs_uncut: Whether images are drawn for the network as it was before the cuts.
    """

    choosing: Choosing
    training: Training
    session: Session[Progress]
    plan: Plan
    learning: Fitting
    distilling: Distilling
    supplies: Supplies | None = None
    needs_uncut: bool = False

    def run(self, network: nn.Module) -> Outcome:
        """Cut and fine-tune stage by stage, then test and save."""
        session, setup = self.session, self.session.setup
        keeping = Keeping(
            baseline=self._needs_baseline,
            spec=self._spec,
            restore=lambda path: rebuilt_network(setup, read_state(path), path),
        )
        steps = [Step(stage.name, partial(self._stage, stage)) for stage in self.plan.stages]
        network = run_steps(session, steps, network, keeping)
        model = self._final(network)
        # Side by side: the baseline's first figure was taken minutes or days ago.
        full = build_network(setup).to(session.engine.device)
        before, after = latencies_ms([full, network], tuple(setup.data.input_shape))
        reference = session.state.reference = replace(session.reference, latency_ms=before)
        model = replace(model, latency_ms=after)
        if session.writes:
            save(network, session.folder / MODEL, self._spec(model))
        session.engine.barrier()
        digests = session.engine.digests(network)
        own = PruningDetails(self._rows(), session.progress.before_finetuning)
        details = {"pruning": own, **self.distilling.details(setup)}
        return Outcome(reference, model, details, tuple(digests))

    @property
    def _needs_baseline(self) -> bool:
        original = self.choosing.reconstruction.aims_at_original
        teaches = self.distilling.teaches_itself(self.session.setup)
        return original or teaches or self.needs_uncut

    def _spec(self, model: Measurement | None = None) -> Spec:
        metrics = {} if model is None else model.figures()
        return network_spec(self.session.setup, self.session.progress.kept, metrics=metrics)

    def _final(self, network: nn.Module) -> Measurement:
        """Figures of the last network; those measured right after its cut may still hold."""
        session = self.session
        last, known = session.state.steps[-1], session.progress.before_finetuning
        test = None if known is None else known.recalibrated or known.plain
        if last.epochs or test is None:
            return evaluate_fully(session.setup, session.engine, network)
        return replace(
            measure(session.setup, session.engine, network),
            **asdict(test),
            val_top1=last.figures["top1"], val_top5=last.figures["top5"],
        )  # fmt: skip

    def _stage(self, stage: Stage, network: nn.Module, folder: Path) -> Done:
        """Cut, fine-tune, measure."""
        session, total = self.session, len(self.plan.stages)
        network, cut = self._cut(stage, network, folder)
        accuracy = cut.best_known
        if stage.phases:
            training = self.training
            found = self.learning.fit(
                session.engine, network, stage.phases, training, f"stage {stage.name}",
                folder / "fit",
            )  # fmt: skip
            accuracy = Accuracy(found.top1, found.top5)
        figures = self._figures(network, cut, accuracy)
        before = f"{percent(cut.plain.top1)} before"
        if cut.recalibrated is not None:
            before += f" ({percent(cut.recalibrated.top1)} recalibrated)"
        said = (
            f"stage {stage.index + 1}/{total}: validation top-1 {before}, "
            f"{percent(accuracy.top1)} after {stage.epochs} epochs of fine-tuning; "
            f"{100 * (figures['compression_rate'] or 0):.1f} % of the FLOPs removed"
        )
        return Done(network, figures, stage.epochs, said, partial(self._note, stage, cut))

    def _note(self, stage: Stage, cut: Cut) -> None:
        progress = self.session.progress
        for layer in cut.layers:
            progress.kept[layer.layer] = layer.kept
            progress.layers.append((stage.index, layer))
        if cut.test is not None:
            progress.before_finetuning = cut.test

    def _figures(self, network: nn.Module, cut: Cut, accuracy: Accuracy) -> dict[str, float | None]:
        costs = measure(self.session.setup, self.session.engine, network)
        again = cut.recalibrated
        return {
            "compression_rate": 1 - costs.flops / self.session.reference.flops,
            **{key: value for key, value in costs.figures().items() if key not in _ACCURACIES},
            "top1_plain": cut.plain.top1,
            "top5_plain": cut.plain.top5,
            "top1_recalibrated": None if again is None else again.top1,
            "top5_recalibrated": None if again is None else again.top5,
            "top1": accuracy.top1,
            "top5": accuracy.top5,
        }

    def _cut(self, stage: Stage, network: nn.Module, folder: Path) -> tuple[nn.Module, Cut]:
        """Cut the stage's layers, or take up the cut that an earlier attempt made."""
        session, choosing = self.session, self.choosing
        engine, record, weights = session.engine, folder / "cut.json", folder / "cut.safetensors"
        if engine.exists(record):
            cut = engine.decide(lambda: _read_cut(record))
            return restore(session, weights), cut
        assert self.supplies is not None
        images = self.supplies.calibration
        calibration = calibrate(engine, images, choosing.sampling, choosing.batch_size)
        network.to(engine.device)
        if choosing.reconstruction.aims_at_original:
            calibration = replace(calibration, reference=self._original())
        graph = trace(network, calibration.images[0][None].to(engine.device))
        layers, _ = prune_groups_(
            network, graph, stage.counts, choosing.criterion, choosing.reconstruction, calibration,
            recalibrate=choosing.recalibrate_bn == "each",
            watch=inspecting(session, calibration.images),
        )  # fmt: skip
        for layer in layers:
            say(self._describe(stage, layer))
        cut = self._judge(stage, network, tuple(layers), calibration)
        if session.writes:
            write_bytes_atomic(weights, dump_state(network))
            write_json_atomic(record, to_json(cut))
        engine.barrier()
        return network, cut

    def _original(self) -> Reference:
        """The full network, and which of its filters are left by now."""
        session = self.session
        network = restore(session, session.folder / BASELINE).to(session.engine.device)
        image = torch.zeros(1, *session.setup.data.input_shape).to(session.engine.device)
        layers = trace(network, image).layers
        reference = Reference(network)
        for name, kept in session.progress.kept.items():
            reference.note(layers[name], kept)
        return reference

    def _judge(
        self,
        stage: Stage,
        network: nn.Module,
        layers: tuple[LayerRecord, ...],
        calibration: Calibration,
    ) -> Cut:
        """Accuracy before fine-tuning, without and with recalibrated BatchNorm."""
        engine = self.session.engine
        last = stage.index == len(self.plan.stages) - 1

        def accuracy(split: str) -> Accuracy:
            return Accuracy(**asdict(engine.evaluate(network, split)))

        plain = accuracy("val")
        test_plain = accuracy("test") if last else None
        recalibrated = test_recalibrated = None
        network.to(engine.device)
        never = self.choosing.recalibrate_bn == "never"
        if not never and recalibrate_(network, calibration.batches()):
            recalibrated = accuracy("val")
            test_recalibrated = accuracy("test") if last else None
        test = None if test_plain is None else BeforeFinetuning(test_plain, test_recalibrated)
        return Cut(layers, plain, recalibrated, test)

    def _describe(self, stage: Stage, layer: LayerRecord) -> str:
        text = (
            f"stage {stage.index + 1}/{len(self.plan.stages)}: {layer.layer} keeps "
            f"{len(layer.kept)} of {layer.filters_before} filters"
        )
        if layer.rows is not None:
            text += f", from {layer.rows} rows"
        if layer.error is not None:
            text += f", relative error {layer.error:.3f}"
        if layer.error_corrected is not None:
            text += f" ({layer.error_corrected:.3f} corrected)"
        return text

    def _rows(self) -> tuple[LayerRow, ...]:
        """The layer records with what the layers cost in the end."""
        planned = {row.layer: row for row in self.plan.rows}
        return tuple(
            LayerRow(
                stage=stage,
                **asdict(planned[layer.layer]),
                kept=tuple(layer.kept),
                rows=layer.rows,
                error=layer.error,
                error_corrected=layer.error_corrected,
            )
            for stage, layer in self.session.progress.layers
        )


def _read_cut(record: Path) -> Cut:
    try:
        return from_json(Cut, read_json(record))
    except ValueError as error:
        raise ThinetError(
            f"{record} is damaged ({error}): delete it to cut again, or type resume=off."
        ) from error
