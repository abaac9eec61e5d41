"""One run under way: what every method works with."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

from thinet.engine.engine import Engine
from thinet.pruning.plan import Plan, make_plan
from thinet.run.setup import Job
from thinet.run.state import RunState


@dataclass
class Run:
    """One run under way."""

    job: Job
    found_plan: Plan | None
    engine: Engine
    state: RunState
    folder: Path
    counted: float = field(default_factory=time.monotonic)

    @property
    def plan(self) -> Plan:
        """The plan; the methods find it before they need it."""
        assert self.found_plan is not None
        return self.found_plan

    def begin(self) -> None:
        """Start the other processes; all take the state of the first, which holds the folder."""
        self.engine.start_processes()
        self.state = self.engine.agree(self.state)
        self.engine.step = self.state.step
        if self.found_plan is None and self.state.counts is not None:
            self.found_plan = make_plan(self.job, self.state.counts)

    @property
    def writes(self) -> bool:
        """Whether this process writes files."""
        return self.engine.rank == 0

    def stage_folder(self, index: int) -> Path:
        """Where a stage keeps what it needs to resume."""
        return self.folder / "stages" / f"{index:03d}"

    def count_time(self) -> None:
        """Add the time since the last call, so that a kill loses no more than a stage's."""
        now = time.monotonic()
        self.state.seconds += now - self.counted
        self.counted = now

    def save_state(self) -> None:
        """Write ``state.json`` and wait until it is written."""
        self.count_time()
        self.state.step = self.engine.step
        if self.writes:
            self.state.save(self.folder)
        self.engine.barrier()
