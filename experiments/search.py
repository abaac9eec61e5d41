"""What the studies of searched widths share: one training for all, what judges, what is searched.

Images are shifted and mirrored a batch at a time: one by one, it takes as long as the training.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import thinet
from experiments.cifar import Data, Images, normalise
from thinet.base.seeding import derive_seed
from thinet.engine.phases import Phase
from thinet.metrics import cost
from thinet.metrics.top1 import top1_error
from thinet.search.budget import draw_near
from thinet.search.evolution import Problem, next_generation, uniform
from thinet.search.plan import make_problem, make_task
from thinet.search.proxies import Hypernet, Shared
from thinet.search.settings import Course, Evolution, Searching
from thinet.search.training import train_
from thinet.surgery import trace
from thinet.training.fresh import cut_fresh_
from thinet.training.proxy import Evidence, Judge, Proxy, Task
from thinet.widths.space import Genes
from thinet.widths.target import Target

HYPERNET, SHARED, PRUNE = "hypernet", "shared", "prune"
PROXIES = (HYPERNET, SHARED, PRUNE)
RANDOM, UNIFORM, THINET, TUNED = "random", "uniform", "thinet", "thinet_tuned"
ARMS = (HYPERNET, SHARED, PRUNE, RANDOM, UNIFORM, THINET, TUNED)
FULL = "full"
BATCH = 64
"""Images a step, and those that ThiNet and all that judge look at in one pass."""
PLACE: Any = SimpleNamespace(seed=0, device=torch.device("cpu"))
"""What proxies ask of an engine and of a setup here."""


@dataclass(frozen=True)
class Sizes:
    """How large the study is.

    Attributes:
        epochs: Of every training, fine-tuning too.
        rate: Of a training at its beginning.
        tuning_rate: Of fine-tuning.
        proxy_epochs: Of what is trained to judge.
        proxy_rate: Of that at its beginning, at twice the batch.
        population: Candidates a generation.
        generations: How many there are.
        judging: Validation images that candidates are judged on.
        calibration: Training images for statistics and for pruning.
        vectors: Random widths that are trained to see what proxies are worth.
        spread: Of these; see :func:`thinet.search.budget.draw_near`.
    """

    epochs: int = 8
    rate: float = 0.05
    tuning_rate: float = 0.02
    proxy_epochs: int = 16
    proxy_rate: float = 0.1
    population: int = 20
    generations: int = 10
    judging: int = 2_000
    calibration: int = 640
    vectors: int = 16
    spread: float = 0.5


class Shuffled:
    """Training images in another order each time, shifted and mirrored, normalised.

    Args:
        images: All of them; an incomplete batch is left out.
        size: Of a batch.
        seed: Of order, shifts and mirroring: the same one gives the same batches.
        shift: Pixels at most.
        flip: Whether half of them are mirrored.
    """

    def __init__(self, images: Images, size: int, seed: int, shift: int, flip: bool) -> None:
        self.images, self.size = images, min(size, len(images))
        self.seed, self.shift, self.flip, self.epoch = seed, shift, flip, 0

    def __len__(self) -> int:
        return len(self.images) // self.size

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(derive_seed(self.seed, "order", self.epoch))
        self.epoch += 1
        order = torch.randperm(len(self.images), generator=generator)
        for part in order.split(self.size)[: len(self)]:
            batch = self.images.take(part)
            yield normalise(self._moved(batch.pixels, generator)), batch.labels

    def _moved(self, pixels: Tensor, generator: torch.Generator) -> Tensor:
        count, side = len(pixels), pixels.shape[-1]
        padded = F.pad(pixels, [self.shift] * 4)
        offsets = torch.randint(0, 2 * self.shift + 1, (2, count, 1), generator=generator)
        rows, columns = offsets + torch.arange(side)
        if self.flip:
            mirrored = torch.rand(count, 1, generator=generator) < 0.5
            columns = torch.where(mirrored, columns.flip(1), columns)
        which = torch.arange(count)[:, None, None]
        return padded[which, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def fit(network: nn.Module, batches: Shuffled, epochs: int, rate: float) -> None:
    """Train in place: SGD, Nesterov momentum 0.9, weight decay 5e-4, a cosine down to zero.

    Convolutions are in bfloat16, which takes two thirds of the time.
    """
    network.to(memory_format=torch.channels_last).train()
    phase = Phase(epochs, rate, "cosine")
    optimizer = torch.optim.SGD(
        network.parameters(), rate, momentum=0.9, nesterov=True, weight_decay=5e-4
    )
    for epoch in range(epochs):
        for step, (images, labels) in enumerate(batches):
            for group in optimizer.param_groups:
                group["lr"] = rate * phase.factor(epoch + step / len(batches))
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16):
                loss = F.cross_entropy(network(images), labels)
            loss.backward()
            optimizer.step()
    network.eval()


class Study:
    """What is measured, and where it is kept.

    Args:
        data: The images.
        make: The network at full width, with random weights.
        folder: Of the files.
        sizes: How large it is.
        flip: Whether images are mirrored.
    """

    def __init__(
        self, data: Data, make: Callable[[], nn.Module], folder: Path, sizes: Sizes,
        flip: bool = True,
    ) -> None:  # fmt: skip
        self.data, self.make, self.folder, self.sizes, self.flip = data, make, folder, sizes, flip
        self.shape = tuple(data.train.pixels.shape[1:])
        # Not in channels-last layout, nor are traced networks: pooling would hide the last layer.
        self.images = normalise(data.train.pixels[:2]).contiguous()
        folder.mkdir(parents=True, exist_ok=True)

    def batches(self, seed: int, size: int = BATCH) -> Shuffled:
        """Training images; shifted by an eighth of their side at most."""
        return Shuffled(self.data.train, size, seed, self.shape[-1] // 8, self.flip)

    def fresh(self, seed: int) -> nn.Module:
        """A network with random weights."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(seed, "weights"))
            return self.make().eval()

    @cached_property
    def task(self) -> Task:
        """The widths to choose among, with random weights."""
        found, _ = make_task(self.fresh(0), self.images, "all", Searching())
        return found

    @cached_property
    def evidence(self) -> Evidence:
        """What candidates are judged on."""
        calibration = self.data.calibration(self.sizes.calibration, 0)
        shown = list(calibration.batches(BATCH))
        judging = self.data.validation.take(torch.arange(self.sizes.judging))
        return Evidence(shown, list(judging.batches(BATCH)))

    def problem(self, budget: float) -> Problem:
        """Widths of at most so many FLOPs, and of hardly fewer."""
        return make_problem(self.task, Target("flops", budget), Searching())

    # What is trained before anything is searched.

    def train_full(self, seed: int) -> dict[str, Any]:
        """The network at full width."""
        network = self.fresh(seed)
        found = self.trained_from(network, seed, self.sizes.rate)
        torch.save(network.state_dict(), self.folder / f"full-{seed}.pt")
        return {"arm": FULL, "budget": 1.0, "seed": seed, **found}

    def trained(self) -> nn.Module:
        """The network of seed 0 as it was trained."""
        network = self.fresh(0)
        network.load_state_dict(torch.load(self.folder / "full-0.pt"))
        return network

    def proxy(self, name: str) -> Proxy:
        """By its name."""
        if name == PRUNE:
            from thinet.pruning.proxy import Prune

            return Prune()
        return Hypernet() if name == HYPERNET else Shared()

    def train_proxy(self, name: str) -> dict[str, Any]:
        """PruningNet, or shared weights."""
        start = time.process_time()
        net: Any = self.proxy(name).make(self.task, PLACE)
        course = Course(self.sizes.proxy_epochs, self.sizes.proxy_rate)
        train_(net, self.batches(0, 2 * BATCH), course, 0, lambda line: print(line, flush=True))
        seconds = time.process_time() - start
        torch.save(net.state_dict(), self.folder / f"{name}.pt")
        count = sum(one.numel() for one in net.parameters())
        return {"proxy": name, "seconds": seconds, "parameters": count}

    def judge(self, name: str) -> Judge:
        """What judges widths, ready to do it."""
        proxy, task = self.proxy(name), self.task
        made = proxy.make(task, PLACE)
        if made is not None:
            made.load_state_dict(torch.load(self.folder / f"{name}.pt"))
        if proxy.trained:
            task, _ = make_task(self.trained(), self.images, "all", Searching())
        return proxy.judge(task, made, self.evidence, PLACE)

    # What is searched.

    def search(self, arm: str, budget: float) -> dict[str, Any]:
        """Widths by evolution, or at random with the PruningNet."""
        start = time.process_time()
        judge = self.judge(HYPERNET if arm == RANDOM else arm)
        ready, problem = time.process_time(), self.problem(budget)
        how = Evolution(self.sizes.population, self.sizes.generations)
        if arm == RANDOM:
            how = Evolution(self.sizes.population, self.sizes.generations, mutations=0,
                            crossovers=0)  # fmt: skip
        errors: dict[Genes, float] = {}
        best = []
        for generation in range(how.generations):
            found = next_generation(how, problem, errors, generation, 0)
            errors |= {genes: judge(genes) for genes in found}
            best.append(min(errors.values()))
        end = time.process_time()
        winner = min(errors, key=lambda genes: errors[genes])
        even = uniform(problem)
        return {"arm": arm, "budget": budget, "counts": self.task.space.counts(winner),
                "error": errors[winner], "uniform_error": None if even is None else judge(even),
                "evaluations": len(errors), "prepare_seconds": ready - start,
                "search_seconds": end - ready, "best": best}  # fmt: skip

    def even(self, budget: float) -> dict[str, Any]:
        """One scale for all layers."""
        genes = uniform(self.problem(budget))
        assert genes is not None
        return {"arm": UNIFORM, "budget": budget, "counts": self.task.space.counts(genes)}

    def thinet(self, budget: float) -> dict[str, Any]:
        """ThiNet's own widths, and what is left of the trained network."""
        start = time.process_time()
        calibration = self.data.calibration(self.sizes.calibration, 0)
        shown = [images.contiguous() for images, _ in calibration.batches(BATCH)]
        found = thinet.prune(
            self.trained(), shown, layers="all", reconstruction="refit",
            target=f"flops:{budget}", allocation="error",
        )  # fmt: skip
        seconds = time.process_time() - start
        torch.save(found.model.state_dict(), self.folder / f"thinet-{budget}.pt")
        slim = trace(found.model, self.images[:1]).groups
        counts = {name: slim[name].units for name in self.task.space.names}
        return {"arm": THINET, "budget": budget, "counts": counts, "search_seconds": seconds}

    # What comes of it.

    def slim(self, counts: Mapping[str, int], seed: int) -> nn.Module:
        """Some widths with random weights."""
        return cut_fresh_(self.fresh(seed), counts, self.images[:1])

    def final(self, arm: str, budget: float, seed: int, times: int = 1) -> dict[str, Any]:
        """The widths that an arm has found, trained; ThiNet's network with its weights too.

        Args:
            arm: Which.
            budget: At which budget.
            seed: Of weights and images.
            times: How many times as long as the others it is trained.
        """
        counts = self.read(f"search-{THINET if arm == TUNED else arm}-{budget}")["counts"]
        network, rate = self.slim(counts, seed), self.sizes.rate
        if arm == TUNED:
            network.load_state_dict(torch.load(self.folder / f"thinet-{budget}.pt"))
            rate = self.sizes.tuning_rate
        found = self.trained_from(network, seed, rate, times)
        return {"arm": arm, "budget": budget, "seed": seed, **found}

    def vector(self, number: int, budget: float, seed: int) -> dict[str, Any]:
        """Random widths, trained."""
        counts = self.task.space.counts(self.vectors(budget)[number])
        found = self.trained_from(self.slim(counts, seed), seed, self.sizes.rate)
        return {"vector": number, "budget": budget, "seed": seed, **found}

    def vectors(self, budget: float) -> list[Genes]:
        """Random widths of one cost."""
        problem, rng = self.problem(budget), np.random.default_rng([0, 7])
        found: list[Genes] = []
        while len(found) < self.sizes.vectors:
            args = problem.space, problem.cost_of, problem.window, self.sizes.spread, rng
            genes = draw_near(*args)
            if genes is not None and genes not in found:
                found.append(genes)
        return found

    def judged(self, name: str, budget: float) -> dict[str, Any]:
        """What a proxy says of these."""
        judge = self.judge(name)
        return {"proxy": name, "budget": budget,
                "errors": [judge(genes) for genes in self.vectors(budget)]}  # fmt: skip

    def trained_from(
        self, network: nn.Module, seed: int, rate: float, times: int = 1
    ) -> dict[str, Any]:
        """Train and measure; every arm sees the same batches."""
        start = time.process_time()
        fit(network, self.batches(seed), times * self.sizes.epochs, rate)
        return {"seconds": time.process_time() - start, **self.figures(network)}

    def figures(self, network: nn.Module) -> dict[str, Any]:
        """Accuracies in percent and costs."""
        costs = cost(network, self.shape)
        validation, test = (100 * (1 - top1_error(network, part.batches(500)))
                            for part in (self.data.validation, self.data.test))  # fmt: skip
        return {"test": test, "validation": validation, "mflops": costs.flops / 1e6,
                "params": costs.params}  # fmt: skip

    def read(self, name: str) -> dict[str, Any]:
        """What a unit has left."""
        found: dict[str, Any] = json.loads((self.folder / f"{name}.json").read_text())
        return found
