"""What a run found: one schema for every method, on disk as ``result.json``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path

from thinet.base.errors import ThinetError
from thinet.base.evaluation import CLASSIFICATION, EVALUATIONS, Evaluate, Evaluation
from thinet.base.files import read_json
from thinet.base.records import JSON, from_json

RESULT = "result.json"
MODEL = "model"
"""The folder, below that of the run, of the network that it leaves."""
FORMAT = 2


@dataclass(frozen=True)
class Measurement:
    """The figures of one network.

    Attributes:
        flops: 2 x multiply-accumulates of convolutions and linear layers, of one image.
        macs: Half of that.
        params: All parameters.
        weights: Parameters without the biases of convolutions and linear layers.
        size_mb: Parameters and buffers in MiB, as they are stored.
        latency_ms: Median time of one image in milliseconds; None if not measured.
        top1: Accuracy on test images as a fraction; None if the network was not trained. Of a
            retrieval it is rank-1: see :mod:`thinet.base.evaluation`.
        top5: The same among the five best classes; or rank-5.
        val_top1: On validation images: what early decisions are made on.
        val_top5: The same among the five best classes.
        binary_ops: 1-bit multiply-accumulates (XNOR and popcount) of one image; not in ``flops``.
        bits: Bits that the parameters take where each is held in as many as it needs.
        top10: Rank-10 of a retrieval.
        mean_ap: Mean average precision of a retrieval.
    """

    flops: int
    macs: int
    params: int
    weights: int
    size_mb: float
    latency_ms: float | None = None
    top1: float | None = None
    top5: float | None = None
    val_top1: float | None = None
    val_top5: float | None = None
    binary_ops: int = 0
    bits: int = 0
    top10: float | None = None
    mean_ap: float | None = None

    def figures(self) -> dict[str, float | None]:
        """Every figure by its name."""
        return {one.name: getattr(self, one.name) for one in fields(self)}


@dataclass(frozen=True)
class StepRecord:
    """One finished step of a method: a stage of pruning, a training, a generation of a search.

    Attributes:
        index: From 0.
        name: For people.
        seconds: It took, in the attempt that finished it.
        epochs: Of training in it.
        peak_memory_mb: Most memory in MiB; None if unknown.
        peak_memory_of: Of what: a GPU, or the process.
        figures: What was found, by name; what the page and the dashboards show depends on names
            such as ``top1`` (validation, at its end), ``flops`` and ``compression_rate``.
    """

    index: int
    name: str
    seconds: float
    epochs: int = 0
    peak_memory_mb: float | None = None
    peak_memory_of: str = ""
    figures: dict[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """What a method returns.

    Attributes:
        reference: Figures of the network that the model is compared with.
        model: Figures of the network that was made; None if none but the reference was.
        details: What only this family knows: a dataclass of its own, by the family's name.
        weights_by_process: SHA-256 of the final weights on each process.
        reference_is: What the reference is, for people: ``baseline``, ``teacher``, ...
    """

    reference: Measurement
    model: Measurement | None
    details: Mapping[str, object] = field(default_factory=dict)
    weights_by_process: tuple[str, ...] = ()
    reference_is: str = "baseline"


@dataclass(frozen=True)
class RunRecord:
    """Which run it was.

    Attributes:
        name: Of the run and of its folder.
        method: Its method.
        model: Short name of the network.
        dataset: Short name of the data set.
        seed: Of everything random.
        command: That repeats it.
        seconds: Over all attempts.
        note: The user's own.
        weights_by_process: See :class:`Outcome`.
        unreadable_images: Those that were left out.
    """

    name: str
    method: str
    model: str
    dataset: str
    seed: int
    command: str
    seconds: float
    note: str | None = None
    weights_by_process: tuple[str, ...] = ()
    unreadable_images: tuple[str, ...] = ()


@dataclass(frozen=True)
class Result:
    """A finished run.

    Attributes:
        run: Which one.
        settings: What the method reads of the configuration, in short: the name of the option
            chosen in a group (``criterion: thinet``), or the value of a key (``ratio: 0.5``).
        sizes: Those of ``settings`` that say how small the model becomes: runs that differ in
            nothing else are points of one curve.
        protocol: How test images were prepared.
        images: Digests of the parts of the data set.
        reference: Figures of the network that is compared with.
        reference_is: ``baseline``, ``teacher``, ...
        model: Figures of the network that was made; None if there is none but the reference.
        steps: What was finished, in order.
        details: What the families have to say, each under its own name.
        config: The part of the configuration that the method reads.
        environment: Versions and devices.
        evaluation: What the figures of test images are; its words are :attr:`evaluated`.
        format: Of this file.
    """

    run: RunRecord
    settings: dict[str, JSON]
    sizes: tuple[str, ...]
    protocol: dict[str, JSON]
    images: dict[str, str]
    reference: Measurement
    reference_is: str
    model: Measurement | None
    steps: tuple[StepRecord, ...]
    details: dict[str, JSON]
    config: dict[str, JSON]
    environment: dict[str, JSON]
    evaluation: Evaluate = CLASSIFICATION
    format: int = FORMAT

    @property
    def final(self) -> Measurement:
        """Figures of the network that the run leaves."""
        return self.reference if self.model is None else self.model

    @property
    def unseen(self) -> bool:
        """Whether there were no images to measure an accuracy on."""
        known = (self.reference.top1, self.final.top1)
        return not self.images and all(one is None for one in known)

    @property
    def evaluated(self) -> Evaluation:
        """What the figures of test images are called."""
        return EVALUATIONS[self.evaluation]


def read_result(folder: str | Path) -> Result:
    """Read the ``result.json`` of a finished run.

    Args:
        folder: The folder of the run, or the path of the file itself.

    Raises:
        ThinetError: If the run has not finished, or the file is not a result this version reads.
    """
    path = Path(folder)
    path = path if path.suffix == ".json" else path / RESULT
    content = read_json(path)
    if not isinstance(content, dict) or "reference" not in content:
        raise ThinetError(f"{path} is not the result of a run: give the folder of a finished run.")
    if content.get("format") != FORMAT:
        raise ThinetError(
            f"{path} has format {content.get('format')} and this version reads format {FORMAT}: "
            "repeat the run with resume=off, or install the version of thinet that wrote it."
        )
    try:
        return from_json(Result, content)
    except ValueError as error:
        raise ThinetError(
            f"{path} is damaged ({error}): repeat the run with resume=off."
        ) from error
