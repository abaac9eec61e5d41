"""What each generator is told: the widths of the groups around its convolution."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase

from thinet.base.errors import ThinetError
from thinet.base.values import shown
from thinet.surgery import Crops


def encodings(
    weights: Sequence[str], crops: Crops, genes: Sequence[int], blocks: Sequence[str] = ()
) -> dict[str, tuple[int, ...]]:
    """The genes that each generated weight depends on.

    Args:
        weights: Dotted names of the weights to generate.
        crops: Whose sizes follow from which groups.
        genes: For each group the place of its gene.
        blocks: Globs of modules all of whose convolutions are told the same, as the paper's in a
            block of MobileNet or ResNet; other convolutions are told the widths of what they read
            and make.

    Returns:
        By weight the places of genes, each once; weights whose size never changes are left out.

    Raises:
        ThinetError: If one of the globs names nothing.
    """
    own = {name: _once(genes[group] for group in crops.reads(name)) for name in weights}
    own = {name: found for name, found in own.items() if found}
    for pattern in blocks:
        if not any(_block(name, [pattern]) for name in own):
            raise ThinetError(
                f"blocks: {pattern!r} is no module around one of the convolutions whose weights "
                f"are made: they are {', '.join([*own][:6])}{' ...' if len(own) > 6 else ''}."
            )
    teams: dict[str, list[str]] = {}
    for name in own:
        teams.setdefault(_block(name, blocks) or name, []).append(name)
    found: dict[str, tuple[int, ...]] = {}
    for team in teams.values():
        together = _once(gene for name in team for gene in own[name])
        found |= dict.fromkeys(team, together)
    return {name: found[name] for name in own}


def hidden_of(weight: str, hidden: int | Mapping[str, int]) -> int:
    """The width of a generator's first layer: one for all, or by glob, the first that matches.

    Raises:
        ThinetError: If none matches.
    """
    if isinstance(hidden, int):
        return hidden
    for pattern, size in hidden.items():
        if fnmatchcase(weight, pattern):
            return size
    raise ThinetError(
        f"hidden={shown(dict(hidden))} has no glob that matches {weight}: add one for all others, "
        "'*': 32."
    )


def _block(weight: str, blocks: Sequence[str]) -> str | None:
    """The outermost module around a weight that a glob names; ``*`` stands for no dot here."""
    parts = weight.split(".")
    for count in range(1, len(parts)):
        head = parts[:count]
        for pattern in blocks:
            wanted = pattern.split(".")
            if len(wanted) == count and all(map(fnmatchcase, head, wanted)):
                return ".".join(head)
    return None


def _once(places: Iterable[int]) -> tuple[int, ...]:
    return tuple(dict.fromkeys(places))
