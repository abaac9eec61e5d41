"""The one exception type whose message is meant for the person at the keyboard."""

from __future__ import annotations


class ThinetError(Exception):
    """Something the user can put right: one sentence that says what is wrong and what to type.

    The command line prints the message without a traceback and exits with code 2.
    """
