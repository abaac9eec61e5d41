"""What a run has finished so far, on disk, so that a killed run goes on where it was."""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass, field
from pathlib import Path

from thinet.base.errors import ThinetError
from thinet.base.files import read_json, write_json_atomic
from thinet.base.records import JSON, from_json, to_json
from thinet.run.result import Measurement, StepRecord

STATE = "state.json"


@dataclass
class RunState:
    """The finished part of a run.

    Attributes:
        fingerprint: Of the configuration.
        run_id: Names this run on dashboards, over all its attempts.
        status: ``running`` or ``complete``.
        step: Optimizer steps done.
        seconds: Time spent, over all attempts.
        reference: Figures of the network that the model is compared with.
        steps: What the method has finished, in order.
        progress: What the method has to remember besides: fields of its own.
        data: For each part of the data set what it was when the run began.
    """

    fingerprint: str
    run_id: str = field(default_factory=lambda: uuid.uuid4().hex[:8])
    status: str = "running"
    step: int = 0
    seconds: float = 0.0
    reference: Measurement | None = None
    steps: list[StepRecord] = field(default_factory=list)
    progress: dict[str, JSON] = field(default_factory=dict)
    data: dict[str, str] | None = None

    def check_data(self, identity: dict[str, str]) -> None:
        """Take note of the data set, or compare it with that of the run's earlier attempts.

        Args:
            identity: See :meth:`thinet.datasets.module.ImageData.identity`.

        Raises:
            ThinetError: If it has changed.
        """
        before = self.data
        if before is not None and before != identity:
            changed = [name for name in identity if identity[name] != before.get(name)]
            differences = "; ".join(
                f"{name} was {before.get(name, 'absent')}, is {identity[name]}" for name in changed
            )
            raise ThinetError(
                f"the data set has changed since this run began ({differences}): restore it, or "
                "type resume=off to start anew."
            )
        self.data = identity

    def save(self, folder: Path) -> None:
        """Write ``state.json``."""
        write_json_atomic(folder / STATE, to_json(self))

    @classmethod
    def load(cls, folder: Path, fingerprint: str) -> RunState:
        """The state in ``folder``, or a fresh one if there is none.

        Raises:
            ThinetError: If it is damaged or of another configuration.
        """
        if not (folder / STATE).exists():
            return cls(fingerprint)
        content = read_json(folder / STATE)
        try:
            state = from_json(cls, content)
            if not re.fullmatch(r"[\w-]{1,64}", state.run_id):  # dashboards name folders by it
                raise ValueError("run_id is no name")
        except ValueError as error:
            raise ThinetError(
                f"{folder / STATE} is not the state of a run: type resume=off to start anew."
            ) from error
        if state.fingerprint != fingerprint:
            raise ThinetError(
                f"{folder} holds a run of another configuration ({state.fingerprint}, not "
                f"{fingerprint}): repeat its own command, choose another name with name=<name>, "
                "or leave out resume=<folder>."
            )
        return state
