"""What the studies of binary networks share: their arms, one training of each, their tables."""

from __future__ import annotations

import argparse
import copy
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import thinet
from experiments.cifar import (
    OPTIMIZER,
    Data,
    append_row,
    has_row,
    make_engine,
    normalise,
    read_rows,
)
from thinet.artifacts.openvino.conversion import converted
from thinet.artifacts.openvino.package import core, openvino, telling_nobody
from thinet.artifacts.store import dump_state
from thinet.base.seeding import derive_seed
from thinet.engine.distilled import Pupil
from thinet.engine.lesson import Lesson
from thinet.engine.phases import Phase
from thinet.engine.settings import Training
from thinet.metrics import cost
from thinet.models.binary_vgg import vgg_binary
from thinet.models.features import find_feature
from thinet.quantization.convert import binarize
from thinet.quantization.layers import binary_layers
from thinet.quantization.packed import packed
from thinet.quantization.training import Bounded, Bounds
from thinet.training.learning import Learning

SHAPE = (3, 32, 32)
ADAM = partial(torch.optim.Adam, lr=1.0)
BOUNDS = Bounds(weight=1.0, gamma=0.01)
FULL, LONGER, INT8 = "full precision", "full precision, longer", "int8 after training"
WATCHED = 1_000
"""Validation images that are looked at after each epoch; all of them count at the end."""


@dataclass(frozen=True)
class Arm:
    """A binary network, by how its activations are binarised and what it learns from.

    Attributes:
        order: K.
        scale: Of the activations.
        distilled: Whether the network in full precision teaches it.
        kept: Fraction of filters that pruning left before.
    """

    order: int
    scale: str = "sample"
    distilled: bool = False
    kept: float = 1.0


ARMS = {
    "XNOR (order 1)": Arm(1),
    "order 2": Arm(2),
    "order 3": Arm(3),
    "order 2, distilled": Arm(2, distilled=True),
    "order 2, per patch": Arm(2, "patch"),
    "pruned, order 2": Arm(2, kept=0.5),
}


@dataclass(frozen=True)
class Course:
    """How long networks learn.

    Attributes:
        full: Epochs in full precision.
        activations: Epochs with binary activations and real weights.
        weights: Epochs with both binary.
        images: Of an epoch, drawn anew for each.
        batch: Images a step.
        rate: Adam's learning rate, falling linearly to 0 in each step.
    """

    full: int
    activations: int
    weights: int
    images: int
    batch: int
    rate: float

    @property
    def binary(self) -> int:
        """Epochs of a binary network, beyond those in full precision."""
        return self.activations + self.weights


class Study:
    """Measures rows and keeps them.

    Args:
        options: The command line.
        data: Images.
        flip: Whether mirrored images are of the same class.
    """

    def __init__(self, options: argparse.Namespace, data: Data, flip: bool) -> None:
        self.options, self.data, self.flip = options, data, flip
        self.course = Course(
            options.epochs, options.activations, options.weights, options.images, options.batch,
            options.rate,
        )  # fmt: skip
        few = data.validation.take(torch.arange(min(WATCHED, len(data.validation))))
        self._watched = Data(data.train, few, data.test)

    def fill(self, path: Path) -> None:
        """Measure what is missing, so that after each seed the tables are worth reading."""
        for seed in self.options.seeds:
            for name in (FULL, *ARMS, LONGER, INT8):
                if name not in self.options.arms:
                    continue
                mark = {"arm": name, "seed": seed, **vars(self.course)}
                mark["widths"] = "-".join(map(str, self.options.widths))
                if has_row(read_rows(path), mark):
                    continue
                row = {**mark, **self._row(name, seed)}
                append_row(path, row)
                print(row, flush=True)

    def _row(self, name: str, seed: int) -> dict[str, object]:
        start = time.process_time()
        full = self._full(seed)
        if name == INT8:
            return self._int8(full) | {"seconds": time.process_time() - start}
        network = full
        if name == LONGER:
            phase = Phase(self.course.binary, self.course.rate, "linear")
            network = copy.deepcopy(full)
            self._train(network, seed, "longer", phase, Training(ADAM), Learning())
        elif name != FULL:
            network = self._binary(copy.deepcopy(full), ARMS[name], seed)
        found = self._figures(network)
        return found | {"seconds": time.process_time() - start}

    def _full(self, seed: int) -> nn.Module:
        """In full precision, trained once for all arms of a seed."""
        folder = self.options.work / f"full-{seed}"
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed("binary", seed))
            network = vgg_binary(10, 32, self.options.widths, stem_stride=2)
        if not folder.exists():
            phase = Phase(self.course.full, 0.05, "cosine", min(1, self.course.full / 2))
            self._train(network, seed, "full", phase, Training(OPTIMIZER), Learning())
            thinet.save(network, folder)
        return thinet.load(folder, network)

    def _binary(self, full: nn.Module, arm: Arm, seed: int) -> nn.Module:
        """Prune if asked for, convert, train in two steps, pack."""
        network = full
        if arm.kept < 1:
            batches = [batch for batch, _ in self.data.calibration(256, seed).batches(64)]
            pruned = thinet.prune(full, batches, ratio=arm.kept, round_to=8)
            network = pruned.model
            phase = Phase(self.course.activations, 0.01, "cosine")
            self._train(network, seed, "pruned", phase, Training(OPTIMIZER), Learning())
        network = binarize(network, arm.order, scale=arm.scale)
        learning = Learning()
        if arm.distilled:
            feature = find_feature(full, torch.zeros(2, *SHAPE))
            learning = Learning(Lesson(), Pupil(full.eval(), feature))
        course = self.course
        for key, epochs in (("activations", course.activations), ("weights", course.weights)):
            for layer in binary_layers(network).values():
                layer.binary_weights = key == "weights"
            phase = Phase(epochs, course.rate, "linear")
            self._train(network, seed, key, phase, Training(ADAM), learning)
        return packed(network.eval())

    def _train(
        self, network: nn.Module, seed: int, key: str, phase: Phase, training: Training,
        learning: Learning,
    ) -> None:  # fmt: skip
        course = self.course
        engine = make_engine(
            self._watched, course.batch, seed, course.images // course.batch, flip=self.flip
        )
        objective = learning.objective(engine, network.train(), [phase], training, key)
        with tempfile.TemporaryDirectory() as folder:
            engine.train(Bounded(objective, BOUNDS), key, Path(folder))
        network.eval()

    def _figures(self, network: nn.Module) -> dict[str, object]:
        costs = cost(network, SHAPE)
        return {
            "val": self._accuracy(network, "validation"),
            "test": self._accuracy(network, "test"),
            "mflops": costs.flops / 1e6,
            "binary_mops": costs.binary_ops / 1e6,
            "kbytes": len(dump_state(network)) / 1e3,
        }

    @torch.no_grad()
    def _accuracy(self, network: Any, part: str) -> float:
        """In percent, of a network or whatever takes images and gives logits."""
        images = getattr(self.data, part)
        right = sum(
            int((network(batch.contiguous()).argmax(1) == labels).sum())
            for batch, labels in images.batches(250)
        )
        return 100 * right / len(images)

    def _int8(self, full: nn.Module) -> dict[str, object]:
        """OpenVINO's own quantisation after training, on 300 training images."""
        package = openvino()
        with telling_nobody():
            import nncf

        graph = converted(full, SHAPE).graph
        some = self.data.calibration(300, 0).pixels
        images = [normalise(one[None]).contiguous().numpy() for one in some]
        quantised = nncf.quantize(graph, nncf.Dataset(images))
        with tempfile.TemporaryDirectory() as folder:
            package.save_model(quantised, Path(folder) / "m.xml")
            size = (Path(folder) / "m.bin").stat().st_size
        exact = {"INFERENCE_PRECISION_HINT": "f32"}  # of what is not int8
        run = core().compile_model(quantised, "CPU", exact)

        def logits(batch: Tensor) -> Tensor:
            found: np.ndarray[Any, Any] = run(batch.numpy())[0]
            return torch.from_numpy(found)

        return {
            "val": self._accuracy(logits, "validation"),
            "test": self._accuracy(logits, "test"),
            "mflops": cost(full, SHAPE).flops / 1e6,
            "binary_mops": 0.0,
            "kbytes": size / 1e3,
        }


def make_parser(description: str | None, out: Path) -> argparse.ArgumentParser:
    """The arguments that both studies take."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--root", type=Path, help="folder of the images")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=out, help="where results.csv goes")
    parser.add_argument("--work", type=Path, default=Path("outputs") / out.name)
    parser.add_argument("--draw", action="store_true", help="only the tables")
    parser.add_argument("--arms", nargs="+", default=[FULL, *ARMS, LONGER, INT8])
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rate", type=float, default=2e-3, help="Adam's, of binary networks")
    return parser


TINY = {
    "epochs": 1, "activations": 1, "weights": 1, "images": 16, "batch": 16, "widths": [32, 32],
    "seeds": [0], "arms": [FULL, "order 2, distilled", "pruned, order 2", INT8],
}  # fmt: skip
