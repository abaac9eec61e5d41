"""What the next layer does about the filters it no longer sees: one way a file."""

from thinet.pruning.reconstruction.none import NoReconstruction
from thinet.pruning.reconstruction.reconstruction import Correction, Reconstruction, solve
from thinet.pruning.reconstruction.refit import Refit, refit_from_rows, refit_weights
from thinet.pruning.reconstruction.scale import Scale, relative_error, scale_factors

__all__ = [
    "Correction",
    "NoReconstruction",
    "Reconstruction",
    "Refit",
    "Scale",
    "refit_from_rows",
    "refit_weights",
    "relative_error",
    "scale_factors",
    "solve",
]
