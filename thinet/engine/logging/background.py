"""A dashboard that may fail without taking the run along."""

from __future__ import annotations

import contextlib
from argparse import Namespace
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from lightning_fabric.loggers.logger import _DummyExperiment
from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities import rank_zero_only

from thinet.base.errors import ThinetError
from thinet.base.messages import say

T = TypeVar("T")
LOCAL = "metrics.csv and result.json have every figure"


def is_first() -> bool:
    """Whether this process is the one that logs."""
    return int(getattr(rank_zero_only, "rank", 0) or 0) == 0


def reason(error: Exception, most: int = 240) -> str:
    """What an error says, on one line of at most so many characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= most else f"{text[: most - 1]}…"


class Steady(Logger):
    """Passes everything on to a dashboard until that fails; then says so once and stops.

    ``metrics.csv`` is no dashboard: it is the run's own record, so its failure stops the run.

    Args:
        title: Of the dashboard.
        build: Makes its logger.
        end: Closes that logger with an exit code, also after a failure, which it may not hide.
        later: Says what is left to do about what was not sent.
    """

    def __init__(
        self,
        title: str,
        build: Callable[[], Logger],
        end: Callable[[Logger, int], None] | None = None,
        later: Callable[[Logger | None], str] = lambda _: LOCAL,
    ) -> None:
        super().__init__()
        self.inner: Logger | None = None
        self.failed = False
        self._title, self._end, self._later = title, end, later
        self.inner = self._try(build, building=True)

    def send(self, call: Callable[[Logger], T]) -> T | None:
        """Call with the dashboard's own logger, unless that has failed; None if it fails."""
        inner = self.inner
        return None if self.failed or inner is None else self._try(lambda: call(inner))

    def _try(self, call: Callable[[], T], building: bool = False) -> T | None:
        try:
            return call()
        except Exception as error:
            if building and isinstance(error, (ThinetError, ModuleNotFoundError)):
                raise  # what the user is to put right before the run begins
            self.failed = True
            if is_first():
                say(
                    f"{self._title} failed and gets nothing more ({reason(error)}); the run goes "
                    f"on; {self._later(self.inner)}"
                )
            return None

    @property
    def experiment(self) -> Any:
        """The dashboard's own object; one that ignores every call after a failure."""
        found = self.send(lambda inner: inner.experiment)  # type: ignore[attr-defined]
        return _DummyExperiment() if found is None else found

    @property
    def name(self) -> str:
        """Of the dashboard; its own logger may ask a server for one."""
        return self._title

    @property
    def version(self) -> str:
        """None: Lightning names folders after it, which are chosen elsewhere."""
        return ""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Pass numbers on."""
        self.send(lambda inner: inner.log_metrics(dict(metrics), step))

    def log_hyperparams(
        self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any
    ) -> None:
        """Pass the configuration on."""
        self.send(lambda inner: inner.log_hyperparams(params, *args, **kwargs))

    def save(self) -> None:
        """Let the dashboard write."""
        self.send(lambda inner: inner.save())

    def finalize(self, status: str) -> None:
        """What Lightning says after every Trainer; :meth:`finish` ends the run."""
        self.send(lambda inner: inner.finalize(status))

    def finish(self, status: str) -> None:
        """End the dashboard's run, also one that has failed: it holds threads and files."""
        self.finalize(status)
        inner, end, code = self.inner, self._end, int(status != "success")
        if inner is None or end is None or not is_first():
            return
        if self.failed:
            with contextlib.suppress(Exception):
                end(inner, code)
        else:
            self._try(lambda: end(inner, code))
