"""One run under way: what every method works with."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

from thinet.base.records import to_json
from thinet.engine.engine import Engine
from thinet.run.result import Measurement
from thinet.run.setup import Setup
from thinet.run.state import RunState

P = TypeVar("P")


@dataclass
class Session(Generic[P]):
    """One run under way.

    Attributes:
        setup: What the run is given.
        engine: Trains and evaluates.
        state: What has been finished.
        folder: Of the run.
        progress: What the method has to remember.
    """

    setup: Setup
    engine: Engine
    state: RunState
    folder: Path
    progress: P
    counted: float = field(default_factory=time.monotonic)

    def begin(self) -> None:
        """Start the other processes; all take the state of the first, which holds the folder."""
        self.engine.start_processes()
        self.state, self.progress = self.engine.agree((self.state, self.progress))
        self.engine.step = self.state.step

    @property
    def writes(self) -> bool:
        """Whether this process writes files."""
        return self.engine.rank == 0

    @property
    def reference(self) -> Measurement:
        """Figures of the network that the model is compared with, once it has been measured."""
        assert self.state.reference is not None
        return self.state.reference

    def step_folder(self, index: int) -> Path:
        """Where a step keeps what it needs to resume."""
        return self.folder / "steps" / f"{index:03d}"

    def count_time(self) -> None:
        """Add the time since the last call, so that a kill loses no more than a step's."""
        now = time.monotonic()
        self.state.seconds += now - self.counted
        self.counted = now

    def save(self) -> None:
        """Write ``state.json`` and wait until it is written."""
        self.count_time()
        self.state.step = self.engine.step
        self.state.progress = to_json(self.progress)
        if self.writes:
            self.state.save(self.folder)
        self.engine.barrier()
