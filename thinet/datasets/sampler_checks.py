"""Whether batches of so many images of each class are possible, and what to type if not.

Imported before torch, so that a wrong setting is reported at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import isqrt
from typing import Any

from thinet.base.errors import ThinetError, problems_of
from thinet.base.records import Config
from thinet.base.values import below, is_whole, shown, whole

NAMES = ("uniform", "class_uniform", "superclass_uniform")
USUAL = 4
"""Images of each class in a batch, where nobody says another number."""
CLASSES_A_SUPERCLASS = 5


def check_sampler(config: Config) -> list[str]:
    """What the configuration alone shows to be wrong with ``sampler``: one sentence or none.

    Processes and classes are counted as far as the configuration names them.
    """
    sampler, name = config["sampler"], config["sampler"]["name"]
    if name not in NAMES:
        return [f"sampler.name={shown(name)} is unknown: type sampler={'|'.join(NAMES)}."]
    batch_size = config["finetune"]["batch_size"]
    if name == "uniform" or not is_whole(batch_size) or batch_size < 1:
        return []  # a size that is none has a sentence already
    counts: list[Any] = [config["trainer"][key] for key in ("devices", "num_nodes")]
    world = counts[0] * counts[1] if all(is_whole(one) and one >= 1 for one in counts) else 1
    classes: Any = below(config, "dataset").get("num_classes")
    named = classes if is_whole(classes) and classes >= 1 else None
    if name == "class_uniform":
        return problems_of(images_per_class, sampler["k"], batch_size, named, world)
    return problems_of(_check_superclasses, sampler, batch_size, named or 0, world)


def _check_superclasses(sampler: Config, batch_size: int, classes: int, world: int) -> None:
    count = cluster_count(sampler["clusters"], classes, batch_size, sampler["k"], world)
    images_per_class(sampler["k"], batch_size, count, world, "superclass")


def images_per_class(
    k: object, batch_size: int, classes: int | None = None, world: int = 1, of: str = "class"
) -> int:
    """How many images of each class a batch has.

    Args:
        k: ``sampler.k``: a number; or ``auto``, which is 4 or the smallest larger one that makes
            batches of two classes or more.
        batch_size: Images a batch, over all processes.
        classes: How many there are to draw from; None if that is not known yet.
        world: Processes: each has whole classes, equally many.
        of: ``class`` or ``superclass``, for the sentence.

    Raises:
        ThinetError: If there are no such batches, with values for which there are.
    """
    if k != "auto" and (not is_whole(k) or int(str(k)) < 1):
        raise ThinetError(
            f"sampler.k={shown(k)} is not a positive whole number: type sampler.k={USUAL}, or "
            "sampler.k=auto."
        )
    found = _resolved(k, batch_size, classes, world)
    if found is not None:
        return found
    raise ThinetError(
        f"{_problem(k, batch_size, classes, world, of)}: type "
        f"{_advice(k, batch_size, classes, world, None)}."
    )


def check_batches(
    labels: Iterable[int],
    num_classes: int,
    batch_size: int,
    k: object,
    world: int = 1,
    names: Sequence[str] = (),
    of: str = "class",
) -> int:
    """How many images of each class a batch has, given the training images; before long work.

    Args:
        labels: The class of each training image.
        num_classes: How many classes there are; each must have an image.
        batch_size: See :func:`images_per_class`; ``k``, ``world`` and ``of`` too.
        k: As above.
        world: As above.
        names: Of the classes, for the sentence.
        of: As above.

    Raises:
        ThinetError: As :func:`images_per_class`; if a class has no image; or if there are fewer
            images than a batch has.
    """
    given = list(labels)
    empty = sorted(set(range(num_classes)) - set(given))
    if empty:
        first = f"{of} {empty[0]}" + (f" ({names[empty[0]]})" if empty[0] < len(names) else "")
        more = f" and {len(empty) - 1} more have" if len(empty) > 1 else " has"
        raise ThinetError(
            f"{first}{more} no training image, but sampler={of}_uniform draws from every {of}: "
            "add images of it, or type sampler=uniform."
        )
    found = images_per_class(k, batch_size, num_classes, world, of)
    if len(given) < batch_size:
        raise ThinetError(
            f"there are {len(given)} training images, fewer than a batch of "
            f"finetune.batch_size={batch_size}: type "
            f"{_advice(k, batch_size, num_classes, world, len(given))}."
        )
    return found


def cluster_count(
    clusters: object, num_classes: int, batch_size: int, k: object, world: int = 1
) -> int:
    """How many superclasses to look for.

    Args:
        clusters: ``sampler.clusters``: a number; or ``auto``, which is a fifth of the classes, and
            at least as many as a batch has.
        num_classes: How many classes there are.
        batch_size: See :func:`images_per_class`; ``k`` and ``world`` too.
        k: As above.
        world: As above.

    Raises:
        ThinetError: If ``clusters`` is neither, or as :func:`images_per_class`.
    """
    if clusters != "auto":
        if not is_whole(clusters):
            clusters = shown(clusters)
        return whole("sampler.clusters", clusters, "auto")
    drawn = batch_size // images_per_class(k, batch_size, None, world, "superclass")
    return max(num_classes // CLASSES_A_SUPERCLASS, drawn)


def _resolved(k: object, batch_size: int, classes: int | None, world: int) -> int | None:
    """``k`` as a number, None if no batches can be made of it."""
    larger = [one for one in _divisors(batch_size) if USUAL <= one <= batch_size // 2]
    for one in larger if k == "auto" else (int(str(k)),):
        drawn, left = divmod(batch_size, one)
        if not left and 1 <= drawn <= (classes or drawn) and not drawn % world:
            return one
    return None


def _divisors(number: int) -> list[int]:
    small = [one for one in range(1, isqrt(number) + 1) if not number % one]
    return sorted({*small, *(number // one for one in small)})


def _problem(k: object, batch_size: int, classes: int | None, world: int, of: str) -> str:
    batch = f"finetune.batch_size={batch_size}"
    if k == "auto":
        some = f"{of}es" if classes is None else f"{classes} {of}{'es' if classes > 1 else ''}"
        shared = f", whole ones for each of {world} processes" if world > 1 else ""
        return (
            f"{batch} with sampler.k=auto cannot be made of two or more of {some} with {USUAL} or "
            f"more images each{shared}"
        )
    number = int(str(k))
    drawn, left = divmod(batch_size, number)
    if not drawn:
        return f"sampler.k={k} images of each {of} are more than a batch of {batch} has"
    if left:
        return f"{batch} is not divisible by sampler.k={k}"
    if classes is not None and drawn > classes:
        there = f"there is {classes} {of}" if classes == 1 else f"there are {classes} {of}es"
        return f"{batch} with sampler.k={k} takes {drawn} {of}es, but {there}"
    return (
        f"{batch} with sampler.k={k} makes {drawn} {of}{'es' if drawn > 1 else ''}, which "
        f"{world} processes cannot share so that each has whole ones"
    )


def _advice(k: object, batch_size: int, classes: int | None, world: int, images: int | None) -> str:
    """Values for which there are batches: the nearest ``k``, the nearest size, or neither."""
    wanted = USUAL if k == "auto" else int(str(k))
    found = []
    if images is None or batch_size <= images:
        fitting = [
            one
            for one in _divisors(batch_size)
            if 2 <= one <= batch_size // 2 and _resolved(one, batch_size, classes, world)
        ]
        found = [f"sampler.k={min(fitting, key=lambda one: abs(one - wanted))}"] if fitting else []
    step = wanted * world
    limits = [images, None if classes is None or k == "auto" else wanted * classes]
    nearest = max(round(batch_size / step), 1 if world > 1 else 2) * step
    nearest = min([nearest, *(limit // step * step for limit in limits if limit is not None)])
    if nearest and _resolved(k, nearest, classes, world):
        found.append(f"finetune.batch_size={nearest}")
    return " or ".join(found) or "sampler=uniform"
