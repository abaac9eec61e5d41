"""Superclasses: groups of training images that are alike to a teacher."""

from __future__ import annotations

import hashlib
import json
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, default_collate

from thinet.base.errors import ThinetError
from thinet.base.files import read_json, write_json_atomic
from thinet.base.messages import say
from thinet.base.records import from_json, to_json
from thinet.base.seeding import derive_seed
from thinet.datasets.loader import outlive_sigterm
from thinet.datasets.unreadable import Unreadable
from thinet.engine.engine import Engine
from thinet.engine.progress import clock

FeaturesOf = Callable[[Tensor], Tensor]
"""From images on the engine's device, (N, 3, H, W), to their features, (N, d)."""

BATCH, CPU_BATCH = 256, 32
"""Images a forward pass."""
FITTED = 50_000
"""Images that k-means looks at to find its centres; each of more goes to the nearest centre."""
STARTS = 3
"""Beginnings of k-means, of which the best end counts."""
PATIENCE = 30.0
"""Seconds between two lines that say how far it is."""


def superclasses(
    engine: Engine,
    features_of: FeaturesOf,
    clusters: int,
    content: Mapping[str, str],
    cache: Path,
) -> list[int]:
    """One superclass for each training image: k-means on a teacher's features of length 1.

    The images are not augmented, and processes share them out among them. The result is kept in a
    file named by all that it depends on.

    Source: SUR of Peng et al., ICCV 2019 (arXiv:1904.01802), as summaries of that paper describe
    it.

    Args:
        engine: Gives images, device and seed.
        features_of: The teacher, in ``eval()`` mode; called without gradients.
        clusters: How many superclasses, at least 1; there are fewer where fewer images differ.
        content: What tells ``features_of`` from others: a digest of the teacher's weights, the
            feature's name, the precision.
        cache: Folder of the file.

    Returns:
        ``0, 1, ...`` in the order of what ``ImageData.batches`` is given, numbered as they first
        appear, none without an image. An image that cannot be decoded has the most frequent one of
        its class.

    Raises:
        ThinetError: On every process, if the features are not finite, too many images cannot be
            decoded, or the file cannot be written.
    """
    known = _identity(engine, clusters, content)
    path = cache / f"superclasses-{_digest(known)[:16]}.json"
    labels = engine.data.plain_training().labels
    found = engine.decide(lambda: _read(path, known, len(labels)))
    if found is not None:
        return found
    say(f"superclasses: the teacher looks at {len(labels)} images")
    features = _features(engine, features_of)
    seed = derive_seed(engine.seed, "superclasses")

    def choose() -> list[int]:
        found = _complete(_cluster(features, clusters, seed), labels)
        write_json_atomic(path, to_json(_Known(known, found, _digest(found))))
        sizes = sorted(Counter(found).values())
        say(f"superclasses: {len(sizes)} of {sizes[0]} to {sizes[-1]} images, kept in {path}")
        return found

    return engine.decide(choose)


def k_means(features: NDArray[Any], clusters: int, seed: int) -> list[int]:
    """The cluster of each point, numbered as they first appear.

    Args:
        features: ``(N, d)``.
        clusters: At least 1; there are fewer where fewer points differ.
        seed: Of the beginnings (k-means++), and of what is looked at of very many points.
    """
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    points = np.asarray(features, dtype=np.float64)  # sums of threads differ in the last digits
    if len(points) > FITTED:
        some = np.random.default_rng(seed).permutation(len(points))[:FITTED]
        fitted = points[np.sort(some)]
    else:
        fitted = points
    count, state = min(clusters, len(fitted)), seed % 2**32
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer points differ
        means = KMeans(count, init="k-means++", n_init=STARTS, random_state=state).fit(fitted)
    found = means.labels_ if fitted is points else means.predict(points)
    numbers: dict[int, int] = {}
    return [numbers.setdefault(int(one), len(numbers)) for one in found]


def _cluster(features: Sequence[Tensor | None], clusters: int, seed: int) -> list[int | None]:
    """The superclass of each image, None for one without features.

    Raises:
        ThinetError: If a feature is not finite.
    """
    there = [at for at, one in enumerate(features) if one is not None]
    matrix = torch.stack([one for one in features if one is not None])
    if not bool(matrix.isfinite().all()):
        raise ThinetError(
            "the teacher's features are not finite numbers, so images cannot be grouped by them: "
            "give another teacher=<run or file>, or type sampler=class_uniform."
        )
    say(f"superclasses: k-means with {clusters} centres")
    numbers = k_means(F.normalize(matrix.double()).numpy(), clusters, seed)
    different = max(numbers) + 1
    if different < clusters:
        say(
            f"superclasses: {different} instead of {clusters}, since no more of the features differ"
        )
    found: list[int | None] = [None] * len(features)
    for at, number in zip(there, numbers, strict=True):
        found[at] = number
    return found


def _complete(found: Sequence[int | None], labels: Sequence[int]) -> list[int]:
    """Images without a superclass have the most frequent one of their class, or of all."""
    pairs = zip(found, labels, strict=True)
    of_class: dict[int, Counter[int]] = {}
    for number, label in pairs:
        if number is not None:
            of_class.setdefault(label, Counter())[number] += 1
    overall = sum(of_class.values(), Counter())
    return [
        of_class.get(label, overall).most_common(1)[0][0] if number is None else number
        for number, label in zip(found, labels, strict=True)
    ]


def _features(engine: Engine, features_of: FeaturesOf) -> list[Tensor | None]:
    """Features of all training images, None for those that cannot be decoded.

    Batches take turns among the processes, so that each holds the same images however many there
    are, hence gives the same bits; what they find is shared batch by batch, since a process that
    waits for long gives up. Only the first keeps it.

    Raises:
        ThinetError: On every process, what any of them meets.
    """
    total = len(engine.data.plain_training())
    size = CPU_BATCH if engine.device.type == "cpu" else BATCH
    batches = [list(range(at, min(at + size, total))) for at in range(0, total, size)]
    mine = _own_batches(engine, features_of, batches[engine.rank :: engine.world])
    found: list[Tensor | None] = []
    began = spoke = time.monotonic()
    for _ in range(0, len(batches), engine.world):
        for part in engine.gather(_attempt(mine)):
            if isinstance(part, ThinetError):
                raise part
            found += part if engine.rank == 0 else [None] * len(part)
        now = time.monotonic()
        if now - spoke >= PATIENCE:
            left = (now - began) / len(found) * (total - len(found))
            say(f"superclasses: {len(found)} of {total} images, {clock(left)} left")
            spoke = now
    return found


def _attempt(mine: Iterator[list[Tensor | None]]) -> list[Tensor | None] | ThinetError:
    """The next batch of this process, none if it has no more, or the error that it meets."""
    try:
        return next(mine, [])
    except ThinetError as error:
        return error


def _own_batches(
    engine: Engine, features_of: FeaturesOf, batches: list[list[int]]
) -> Iterator[list[Tensor | None]]:
    """What the teacher says of each image of some batches; None of one that cannot be decoded."""
    workers = engine.data.num_workers
    loader = DataLoader(
        engine.data.plain_training(),
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=_collate,
        worker_init_fn=outlive_sigterm if workers else None,
        # its own, so that what is trained next draws the same numbers with and without the cache
        generator=torch.Generator().manual_seed(derive_seed(engine.seed, "superclasses")),
    )
    for images, items in loader:
        for item in items:
            if item is not None:
                engine.data.unreadable.note(*item)
        rows: Iterator[Tensor] = iter(())
        if images is not None:
            with torch.no_grad():
                rows = iter(features_of(images.to(engine.device)).detach().float().cpu())
        yield [next(rows).clone() if item is None else None for item in items]


def _collate(
    items: Sequence[tuple[Tensor, int] | Unreadable],
) -> tuple[Tensor | None, list[Unreadable | None]]:
    """The images that could be decoded, and for each item what it is instead, if it could not."""
    readable = [item[0] for item in items if not isinstance(item, Unreadable)]
    others = [item if isinstance(item, Unreadable) else None for item in items]
    return (default_collate(readable) if readable else None), others


@dataclass(frozen=True)
class _Known:
    """What the file holds.

    Attributes:
        content: What the superclasses depend on.
        superclasses: Of all training images.
        digest: Of ``superclasses``.
    """

    content: dict[str, str]
    superclasses: list[int]
    digest: str


def _identity(engine: Engine, clusters: int, content: Mapping[str, str]) -> dict[str, str]:
    """What superclasses depend on: teacher, images, how they are seen, seed and settings."""
    data, view = engine.data, engine.data.plain_training()
    chosen = view.positions.tobytes() + np.asarray(view.labels, dtype=np.int64).tobytes()
    return {
        **{f"teacher {key}": value for key, value in content.items()},
        "train": data.identity()["train"],
        "chosen": hashlib.sha256(chosen).hexdigest(),
        "seen": f"{data.preprocessing} {data.read.__name__} {engine.device.type}",
        "clusters": str(clusters),
        "seed": str(engine.seed),
        "k-means": f"{FITTED} {STARTS}",
    }


def _read(path: Path, content: dict[str, str], images: int) -> list[int] | None:
    """What was found before; None if nothing was, or the file is not what it should be."""
    if not path.exists():
        return None
    try:
        found = from_json(_Known, read_json(path))
        if found.content != content or found.digest != _digest(found.superclasses):
            raise ValueError("it holds something else than was written")
        if len(found.superclasses) != images:
            raise ValueError(f"it is about {len(found.superclasses)} images, not {images}")
        if set(found.superclasses) != set(range(max(found.superclasses) + 1)):
            raise ValueError("superclasses are missing")
    except (ThinetError, ValueError) as error:
        reason = str(error).rstrip(".")
        say(f"superclasses: {path} is damaged ({reason}); looking for them again")
        return None
    say(f"superclasses: found before, from {path}")
    return found.superclasses


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
