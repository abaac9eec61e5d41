"""TEMP"""

from thinet.report.sections.search.details import (
    KEY,
    UNIFORM,
    Candidate,
    SearchDetails,
    Trained,
    WidthRow,
)

__all__ = ["KEY", "UNIFORM", "Candidate", "SearchDetails", "Trained", "WidthRow"]
