"""``--smoke`` of every study: its own command on tiny sizes, which says only whether it runs."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any


def parse(
    parser: argparse.ArgumentParser, words: Sequence[str] | None, **tiny: Any
) -> argparse.Namespace:
    """The options of a study, with ``--smoke`` added.

    Args:
        parser: Of the study; has ``--out``.
        words: The command line, None for the one that was typed.
        tiny: What ``--smoke`` means where nothing else is typed.

    Raises:
        SystemExit: If a smoke run would write over the study's own results.
    """
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, into --out: does it run?")
    out = parser.get_default("out")
    options = parser.parse_args(words)
    if not options.smoke:
        return options
    parser.set_defaults(**tiny)
    options = parser.parse_args(words)
    if options.out == out:
        parser.error("--smoke leaves the study's own results alone: add --out <folder>")
    return options
