"""The default run: whole, twice, and killed once and repeated."""

from __future__ import annotations

import signal
import time

from experiments.on_gpu.boxes.commands import QUICK, Command, outcome, start, wait
from experiments.on_gpu.context import Context
from experiments.run_kills.run import digest
from experiments.timing import Row

MARK = "stage 2/"
"""Printed when the second stage begins: then it is killed."""
SAME = ("trainer.deterministic=true",)


def default(context: Context) -> None:
    """All at once, to save time: seconds are those of a shared card."""
    extra = list(QUICK) if context.smoke else []
    whole = {"undisturbed": extra}
    victims = {"killed and resumed": ("undisturbed", extra)}
    if not context.smoke:
        whole |= {"undisturbed, again": extra, "deterministic": list(SAME)}
        victims["deterministic, killed and resumed"] = ("deterministic", list(SAME))
    left = {name: start(context, _folder(name), words) for name, words in whole.items()}
    killed = {name: start(context, _folder(name), words) for name, (_, words) in victims.items()}
    notes = _kill(context, killed)
    for name, note in notes.items():
        if note == MARK:
            killed[name] = start(context, _folder(name), victims[name][1])
    everything = {**left, **killed}
    wait(context, list(everything.values()))
    for name, command in everything.items():
        like = victims[name][0] if name in victims else "undisturbed"
        row: Row = {"run": name, "at_once": len(everything), "killed_at": notes.get(name)}
        row |= outcome(command)
        if name != like and not row.get("error"):
            row |= _compare(command, left[like])
        context.keep(row)


def _folder(name: str) -> str:
    return name.replace(",", "").replace(" ", "_")


def _kill(context: Context, victims: dict[str, Command]) -> dict[str, str]:
    """Kill each when its second stage begins.

    Returns:
        :data:`MARK` for those that were, and for others why not.
    """
    notes: dict[str, str] = {}
    while len(notes) < len(victims) and context.left() > 2:
        for name, command in victims.items():
            if name in notes:
                continue
            if any(line.strip().startswith(MARK) for line in command.lines()):
                if command.poll():
                    notes[name] = "it ended before it could be killed"
                else:
                    command.process.send_signal(signal.SIGKILL)
                    command.process.wait()
                    notes[name] = MARK
            elif command.poll():
                notes[name] = "it failed before it could be killed"
        time.sleep(0.02)
    return notes


def _compare(one: Command, other: Command) -> Row:
    """Whether both end in the same bits and figures."""
    try:
        found, wanted = digest(one.outputs), digest(other.outputs)
    except ValueError:  # there is no result to compare with
        return {}
    return {"same_weights": found[0] == wanted[0], "same_figures": found[1] == wanted[1],
            "compared_with": other.outputs.name}  # fmt: skip
