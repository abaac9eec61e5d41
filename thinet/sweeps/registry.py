"""The points of one sweep, on disk, so that any process can make the table of all of them.

Launchers run points in processes of their own, on other machines too, and none of them knows the
points of the others. So every point that ends leaves a small file, and whoever ends writes the
table anew from all of these files, in order of their numbers.
"""

from __future__ import annotations

import os
import shutil
import uuid
from dataclasses import dataclass, field
from pathlib import Path

from filelock import FileLock

from thinet.base.errors import ThinetError
from thinet.base.files import read_json, write_json_atomic
from thinet.base.folders import check_own

_CURRENT = "attempt.json"


@dataclass(frozen=True)
class SweepFolder:
    """The points of a sweep, as files in its folder.

    Attributes:
        out: Folder of the sweep.
        attempt: Names one start of the sweep. A repeated sweep takes all its points in again, the
            finished ones at once; what is left of an earlier start, which may have been composed
            otherwise or still have a worker running, does not come into the table.
    """

    out: Path
    attempt: str = field(default_factory=lambda: uuid.uuid4().hex[:12])

    def begin(self) -> None:
        """Make this attempt the one whose points count.

        Raises:
            ThinetError: If the folder holds something else, or links that lead out of it.
        """
        if self.out.is_dir() and os.listdir(self.out) and not (self.out / _CURRENT).is_file():
            raise ThinetError(
                f"{self.out} is there already and holds no sweep: remove it, or choose another "
                "place with paths.outputs=<folder>."
            )
        check_own(self.out)
        for earlier in (self.out / "points").glob("*"):
            shutil.rmtree(earlier, ignore_errors=True)
        write_json_atomic(self.out / _CURRENT, {"attempt": self.attempt})

    def take_in(self, number: int, folder: Path, failed: bool) -> None:
        """Register a point that has ended.

        Args:
            number: Of the job, from 0.
            folder: Of the run.
            failed: Whether it failed.
        """
        content = {"folder": str(folder.absolute()), "failed": failed}
        write_json_atomic(self._place / f"{number:06d}.json", content)

    def folders(self) -> dict[Path, bool]:
        """The run folders of all points that have ended, and whether each failed, in order."""
        ended = [read_json(path) for path in sorted(self._place.glob("*.json"))]
        return {Path(point["folder"]): bool(point["failed"]) for point in ended}

    def write(self) -> str | None:
        """Write table and figure.

        Returns:
            A line for people; None if the sweep has been started anew since.
        """
        from thinet.report import write_sweep

        # Without the lock, who read the points earlier could write the table later.
        with FileLock(self.out / ".lock"):
            if read_json(self.out / _CURRENT)["attempt"] != self.attempt:
                return None
            points = self.folders()
            count = "1 point" if len(points) == 1 else f"{len(points)} points"
            failures = sum(points.values())
            failed = f", {failures} failed" if failures else ""
            try:
                table, figure = write_sweep(points, self.out)
            except ThinetError as error:  # points that cannot be compared are points all the same
                return f"sweep: {count}{failed}; no figure: {error}"
            return f"sweep: {count}{failed}; {table} and {figure.name}"

    @property
    def _place(self) -> Path:
        return self.out / "points" / self.attempt
