"""Errors as sentences for the person at the keyboard."""

from __future__ import annotations


class ThinetError(Exception):
    """Something the user can put right: one sentence that says what is wrong and what to type.

    The command line prints the message without a traceback and exits with code 2.
    """


def first_line(error: BaseException) -> str:
    """The first line of an error's message, without its full stop."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(". ")
