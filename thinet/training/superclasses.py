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
    seen = _look(engine, features_of)

    def choose() -> list[int]:
        seed = derive_seed(engine.seed, "superclasses")
        found = _complete(_cluster(seen, clusters, seed), seen.readable, labels)
        write_json_atomic(path, to_json(_Known(known, found, _digest(found))))
        sizes = sorted(Counter(found).values())
        say(f"superclasses: {len(sizes)} of {sizes[0]} to {sizes[-1]} images, kept in {path}")
        return found

    return engine.decide(choose)


def k_means(features: NDArray[Any], clusters: int, seed: int) -> list[int]:
    """The cluster of each point, numbered as they first appear.

    Args:
        features: ``(N, d)``; computed with in float64, since threads add up in any order.
        clusters: At least 1; there are fewer where fewer points differ.
        seed: Of the beginnings (k-means++), and of which are looked at of very many points.
    """
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    chosen = np.random.default_rng(seed).permutation(len(features))[:FITTED]
    fitted = features[np.sort(chosen)].astype(np.float64)
    means = KMeans(
        min(clusters, len(fitted)), init="k-means++", n_init=STARTS, random_state=seed % 2**32
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer points differ
        means.fit(fitted)
    found = means.labels_
    if len(fitted) < len(features):
        pieces = np.array_split(features, -(-len(features) // FITTED))
        found = np.concatenate([means.predict(piece.astype(np.float64)) for piece in pieces])
    numbers: dict[int, int] = {}
    return [numbers.setdefault(int(one), len(numbers)) for one in found]


@dataclass
class _Seen:
    """What the teacher says of images.

    Attributes:
        readable: For each image whether it could be decoded.
        features: Of those, each of length 1, float32 ``(N, d)``; kept by the first process alone.
    """

    readable: list[bool]
    features: Tensor


def _look(engine: Engine, features_of: FeaturesOf) -> _Seen:
    """What the teacher says of all training images.

    Batches take turns among the processes, so that each holds the same images however many there
    are, hence gives the same bits; what they find is shared batch by batch, since a process that
    waits for long gives up.

    Raises:
        ThinetError: On every process, what any of them meets.
    """
    total = len(engine.data.plain_training())
    size = CPU_BATCH if engine.device.type == "cpu" else BATCH
    batches = [list(range(at, min(at + size, total))) for at in range(0, total, size)]
    mine = _own_batches(engine, features_of, batches[engine.rank :: engine.world])
    readable: list[bool] = []
    kept, rows = torch.empty(0, 0), 0
    began = spoke = time.monotonic()
    for _ in range(0, len(batches), engine.world):
        for part in engine.gather(_attempt(mine)):
            if isinstance(part, ThinetError):
                raise part
            readable += part.readable
            if engine.rank == 0 and len(part.features):
                kept = kept if rows else torch.empty(total, part.features.shape[1])
                kept[rows : rows + len(part.features)] = part.features
                rows += len(part.features)
        now = time.monotonic()
        if now - spoke >= PATIENCE:
            left = (now - began) / len(readable) * (total - len(readable))
            say(f"superclasses: {len(readable)} of {total} images, {clock(left)} left")
            spoke = now
    return _Seen(readable, kept[:rows])


def _attempt(mine: Iterator[_Seen]) -> _Seen | ThinetError:
    """The next batch of this process, an empty one if it has no more, or the error it meets."""
    try:
        return next(mine, _Seen([], torch.empty(0, 0)))
    except ThinetError as error:
        return error


def _own_batches(
    engine: Engine, features_of: FeaturesOf, batches: list[list[int]]
) -> Iterator[_Seen]:
    """What the teacher says of some batches.

    Raises:
        ThinetError: If a feature is not finite, or too many images cannot be decoded.
    """
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
    for images, readable, left_out in loader:
        for path, reason in left_out:
            engine.data.unreadable.note(path, reason)
        features = torch.empty(0, 0)
        if images is not None:
            with torch.no_grad():
                features = F.normalize(features_of(images.to(engine.device)).float().cpu())
        if not bool(features.isfinite().all()):
            raise ThinetError(
                "the teacher's features are not finite numbers, so images cannot be grouped by "
                "them: give another teacher=<run or file>, or type sampler=class_uniform."
            )
        yield _Seen(readable, features)


def _cluster(seen: _Seen, clusters: int, seed: int) -> list[int]:
    """The superclass of each image that could be decoded.

    Raises:
        ThinetError: If none could be.
    """
    if not len(seen.features):
        raise ThinetError(
            "none of the training images can be read, so none can be grouped: repair the data set."
        )
    say(f"superclasses: k-means with {clusters} centres")
    found = k_means(seen.features.numpy(), clusters, seed)
    different = max(found) + 1
    if different < clusters:
        say(f"superclasses: {different} instead of {clusters}, since no more features differ")
    return found


def _complete(found: Sequence[int], readable: Sequence[bool], labels: Sequence[int]) -> list[int]:
    """Images that could not be decoded have the most frequent one of their class, or of all.

    Args:
        found: Superclasses of the others, in order.
        readable: For each image whether it could be decoded.
        labels: For each image its class.
    """
    given = iter(found)
    numbers = [next(given) if good else None for good in readable]
    of_class: dict[int, Counter[int]] = {}
    for number, label in zip(numbers, labels, strict=True):
        if number is not None:
            of_class.setdefault(label, Counter())[number] += 1
    overall = Counter(found)
    return [
        of_class.get(label, overall).most_common(1)[0][0] if number is None else number
        for number, label in zip(numbers, labels, strict=True)
    ]


def _collate(
    items: Sequence[tuple[Tensor, int] | Unreadable],
) -> tuple[Tensor | None, list[bool], list[Unreadable]]:
    """The images that could be decoded, for each item whether it could, and the others."""
    images = [item[0] for item in items if not isinstance(item, Unreadable)]
    left_out = [item for item in items if isinstance(item, Unreadable)]
    readable = [not isinstance(item, Unreadable) for item in items]
    return (default_collate(images) if images else None), readable, left_out


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
        reason = "it is no JSON" if isinstance(error, ThinetError) else error
        say(f"superclasses: {path} is damaged ({reason}); looking for them again")
        return None
    say(f"superclasses: found before, from {path}")
    return found.superclasses


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
