"""Whether test images can be evaluated as a run asks for."""

from __future__ import annotations

from contextlib import suppress

from thinet.base.errors import ThinetError
from thinet.base.evaluation import RETRIEVAL
from thinet.metrics.retrieval import count_lost
from thinet.models.features import find_feature
from thinet.run.setup import Setup
from thinet.training.source import on_paper


def check_evaluation(setup: Setup) -> None:
    """Refuse, on paper, what cannot be evaluated.

    Raises:
        ThinetError: If the data set has test images of other classes and they are to be classified,
            or if images are to be found by features and the network has none that can be told.
    """
    if setup.evaluate == RETRIEVAL:
        network, images = on_paper(setup)
        try:
            with suppress(NotImplementedError):  # an operation that cannot be done on paper
                find_feature(network, images)
        except ThinetError as error:
            reason = str(error).rpartition(": ")[0] or str(error).rstrip(".")
            raise ThinetError(
                f"evaluate=retrieval looks at the input of the classifier, but {reason}: choose "
                "another network, or type evaluate=classification."
            ) from error
    elif setup.data.test_is_retrieval:
        raise ThinetError(
            "the test images of this data set are of other classes than those to train on, so they "
            "can be found but not classified: type evaluate=retrieval."
        )


def check_search(setup: Setup) -> None:
    """Refuse a search in which nothing can be found; this reads the data set.

    Raises:
        ThinetError: If no query has its like in the gallery.
    """
    if setup.evaluate == RETRIEVAL:
        wanted = setup.data.retrieval()
        if count_lost(wanted) == len(wanted.query):
            raise ThinetError(
                "no test image has its like among those that are looked through: type "
                "evaluate=classification, or give a data set with several test images of a class."
            )
