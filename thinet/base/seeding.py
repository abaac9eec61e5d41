"""Seeds derived from what they are for, so that a resumed run draws the same numbers."""

from __future__ import annotations

import hashlib


def derive_seed(*parts: int | str) -> int:
    """A stable non-negative 63-bit seed for the purpose that ``parts`` spell out.

    Python's own ``hash`` changes from process to process; a digest does not, so every rank and
    every resumed run derives the same seed.

    Args:
        parts: Anything that names the purpose, for example ``(run_seed, "stage", 3)``.

    Returns:
        An integer in ``[0, 2**63)``.
    """
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
