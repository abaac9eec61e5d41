"""What judges widths, on disk, and the candidates that an earlier run has judged."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from thinet.artifacts.store import dump_state, read_state
from thinet.base.errors import ThinetError
from thinet.base.files import read_json, write_bytes_atomic, write_json_atomic
from thinet.base.records import JSON, from_json, to_json
from thinet.report.sections.search import KEY, SearchDetails
from thinet.run.result import RESULT
from thinet.run.setup import Setup
from thinet.training.proxy import Proxy, Task
from thinet.widths.space import Space

WEIGHTS, ORIGIN = "proxy.safetensors", "proxy.json"


@dataclass(frozen=True)
class Origin:
    """What it was made for: another one would mean something else by the same genes.

    Attributes:
        proxy: Its name.
        settings: How it was made.
        model: The network.
        images: Digests of the parts of the data set.
        names: The groups.
        units: How many channels each has.
        genes: The place of the gene of each group.
        scales: In percent.
    """

    proxy: str
    settings: dict[str, JSON]
    model: str
    images: dict[str, str]
    names: tuple[str, ...]
    units: tuple[int, ...]
    genes: tuple[int, ...]
    scales: tuple[int, ...]


def save_proxy(made: nn.Module, origin: Origin, folder: Path) -> None:
    """Write it; the file of its origin, written last, says that it is complete."""
    write_bytes_atomic(folder / WEIGHTS, dump_state(made))
    write_json_atomic(folder / ORIGIN, to_json(origin))


def origin_of(proxy: Proxy, setup: Setup, space: Space) -> Origin:
    """What a proxy of this run is made for."""
    return Origin(
        proxy.name, proxy.described, setup.source.name, setup.data.identity(), space.names,
        space.units, space.genes, space.scales,
    )  # fmt: skip


def check_origin(origin: Origin, folder: Path) -> None:
    """Refuse what another run has trained, if it was not for this.

    Args:
        origin: What it has to be made for.
        folder: Of the run that trained it.

    Raises:
        ThinetError: If there is none, or it was made for something else.
    """
    if not (folder / ORIGIN).exists():
        raise ThinetError(
            f"{folder} holds nothing that judges widths ({ORIGIN}): give the folder of a run of "
            "method=metaprune that has trained its proxy, or type method.start=proxy."
        )
    try:
        found = from_json(Origin, read_json(folder / ORIGIN))
    except ValueError as error:
        raise ThinetError(f"{folder / ORIGIN} is damaged: type method.start=proxy.") from error
    for name, own in vars(origin).items():
        theirs = getattr(found, name)
        if theirs != own:
            what = "groups of layers" if name in ("names", "units", "genes") else name
            raise ThinetError(
                f"{folder} judges other {what} than this run ({_brief(theirs)}, not "
                f"{_brief(own)}): repeat its settings, or type method.start=proxy."
            )


def load_proxy_(made: nn.Module, origin: Origin, folder: Path) -> None:
    """Load its weights, in place.

    Args:
        made: As it begins.
        origin: What it has to be made for.
        folder: Of the run that trained it.

    Raises:
        ThinetError: See :func:`check_origin`; or if the file is damaged.
    """
    check_origin(origin, folder)
    state = read_state(folder / WEIGHTS)
    wanted = made.state_dict()
    if {key: one.shape for key, one in state.items()} != {
        key: one.shape for key, one in wanted.items()
    }:
        raise ThinetError(f"{folder / WEIGHTS} is damaged: type method.start=proxy.")
    made.load_state_dict(state)


def _brief(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:60]} ..."


def layers_of(task: Task) -> list[tuple[str, ...]]:
    """The layers of each group."""
    groups = task.graph.groups
    return [tuple(layer.name for layer in groups[name].layers) for name in task.space.names]


def read_search(folder: Path, task: Task) -> SearchDetails:
    """What a finished run has judged.

    Args:
        folder: Of that run.
        task: Of this one.

    Raises:
        ThinetError: If it is no such run, or searched something else.
    """
    try:
        found = from_json(SearchDetails, read_json(folder / RESULT)["details"][KEY])
    except (ThinetError, KeyError, TypeError, ValueError) as error:
        raise ThinetError(
            f"method.of={folder} is not the folder of a finished search: give that of a finished "
            "run of method=metaprune, or type method.start=search."
        ) from error
    theirs = [(row.layers, row.full) for row in found.widths]
    own = list(zip(layers_of(task), task.space.units, strict=True))
    sizes = {len(one.genes) for one in found.candidates}
    if theirs != own or found.scales != task.space.scales or sizes != {task.space.size}:
        raise ThinetError(
            f"method.of={folder} searched other layers or scales than this run: repeat its "
            "model, layers, search.scales and search.tied, or type method.start=proxy."
        )
    return found
