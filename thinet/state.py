"""What a run has finished so far, on disk, so that a killed run goes on where it was."""

from __future__ import annotations

import uuid
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from thinet.errors import ThinetError
from thinet.files import read_json, write_json_atomic

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
        baseline: Figures of the full network.
        before_finetuning: Test accuracy in the last stage, before its fine-tuning.
        stages: A row for each finished stage.
        layers: A row for each cut layer.
        kept: Kept filters of each cut layer in original coordinates.
        counts: Kept units of each group, where they were found from the data.
        cells: What ``method=sensitivity`` measured: a row for each layer and ratio.
    """

    fingerprint: str
    run_id: str = field(default_factory=lambda: uuid.uuid4().hex[:8])
    status: str = "running"
    step: int = 0
    seconds: float = 0.0
    baseline: dict[str, Any] | None = None
    before_finetuning: dict[str, Any] | None = None
    stages: list[dict[str, Any]] = field(default_factory=list)
    layers: list[dict[str, Any]] = field(default_factory=list)
    kept: dict[str, list[int]] = field(default_factory=dict)
    counts: dict[str, int] | None = None
    cells: list[dict[str, Any]] = field(default_factory=list)

    def save(self, folder: Path) -> None:
        """Write ``state.json``."""
        write_json_atomic(folder / STATE, asdict(self))

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
            state = cls(**content)
        except TypeError as error:
            raise ThinetError(
                f"{folder / STATE} is not the state of a run: type resume=off to start anew."
            ) from error
        if state.fingerprint != fingerprint:
            raise ThinetError(
                f"{folder} holds a run of another configuration ({state.fingerprint}, not "
                f"{fingerprint}): repeat its own command, or type resume=auto."
            )
        return state
