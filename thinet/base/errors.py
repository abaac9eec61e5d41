"""Errors as sentences for the person at the keyboard."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class ThinetError(Exception):
    """Something the user can put right: one sentence that says what is wrong and what to type.

    The command line prints the message without a traceback and exits with code 2. Characters that
    would steer a terminal, as in the name of a stranger's file, are shown by their number.
    """

    def __str__(self) -> str:
        return "".join(
            one if one.isprintable() or one.isspace() else ascii(one)[1:-1]
            for one in super().__str__()
        )


class SettingError(ThinetError):
    """A setting with a value that it cannot have.

    What checks a value may not know where it was typed: whoever does puts the place in front with
    :meth:`at`.

    Args:
        problem: What is wrong: ``lr=-1 is not a positive number``.
        field: Name of the setting, as it is typed: ``lr``.
        example: A value that makes sense.
    """

    def __init__(self, problem: str, field: str, example: str) -> None:
        super().__init__(f"{problem}: type for example {field}={example}.")
        self.problem, self.field, self.example = problem, field, example

    def at(self, place: str) -> SettingError:
        """The same for a setting below ``place``, such as ``finetune.stage``."""
        return SettingError(self.problem, f"{place}.{self.field}", self.example)


class BusyError(ThinetError):
    """Another process works in the same folder."""


class DivergedError(ThinetError):
    """Training that has left the finite numbers."""


class Terminated(BaseException):
    """The system asked this process to end (SIGTERM); like Ctrl-C, it is not an error.

    What was done is on disk: the same command goes on from there.

    Args:
        agreed: Whether all processes of the run stop at this place.
    """

    def __init__(self, agreed: bool = False) -> None:
        super().__init__()
        self.agreed = agreed


class Unread(BaseException):
    """Nothing reads the output any more, as after ``| head``; like Ctrl-C, it is not an error."""


def first_line(error: BaseException) -> str:
    """The first line of an error's message, without its full stop."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(". ")


def problems_of(
    check: Callable[..., object], *args: Any, place: str = "", **more: Any
) -> list[str]:
    """What a check has to say, as a list of no sentence or one.

    Args:
        check: Called with the rest; raises what is wrong.
        args: See ``check``.
        place: What its settings lie below, if it does not know that itself.
        more: See ``check``.
    """
    try:
        check(*args, **more)
    except SettingError as error:
        return [str(error.at(place) if place else error)]
    except ThinetError as error:
        return [str(error)]
    return []
