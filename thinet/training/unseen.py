"""Whether a run can do without images, where its data set has none."""

from __future__ import annotations

from typing import Any

from thinet.base.errors import ThinetError
from thinet.base.evaluation import RETRIEVAL
from thinet.run.method import Method
from thinet.run.setup import Setup


def check_images(setup: Setup, method: Method[Any, Any]) -> None:
    """Refuse what cannot be done without images; where there are some, nothing is asked.

    Raises:
        ThinetError: If the method needs images, the teacher would have to be trained on some, or
            test images are to be found by their features.
    """
    if setup.data.has_images:
        return
    if setup.evaluate == RETRIEVAL:
        raise ThinetError(
            "evaluate=retrieval looks for test images, and dataset=none has none: type "
            "evaluate=classification."
        )
    advice = method.without_images()
    if advice is not None:
        raise ThinetError(f"{advice}.")
    teacher = setup.teacher
    if teacher is not None and (teacher.train == "always" or teacher.weights.lower() == "none"):
        raise ThinetError(
            f"the teacher {teacher.name} would have to be trained, and dataset=none has no images: "
            "type teacher=<folder of a finished run>, or a data set."
        )
