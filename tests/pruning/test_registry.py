"""Finding implementations by the names of their files."""

from __future__ import annotations

import pytest

from thinet.base.errors import ThinetError
from thinet.pruning.criteria import Criterion, ThiNetOMP
from thinet.pruning.reconstruction import NoReconstruction, Reconstruction, Refit
from thinet.pruning.registry import find, names


def test_a_file_name_finds_its_implementation():
    assert find("criteria", "thinet_omp", Criterion) == ThiNetOMP()
    assert find("reconstruction", "none", Reconstruction) == NoReconstruction()
    assert find("reconstruction", "refit", Reconstruction) == Refit()


def test_files_that_only_help_are_not_offered():
    assert "criterion" not in names("criteria", Criterion)
    assert "batchnorm" not in names("reconstruction", Reconstruction)


@pytest.mark.parametrize("name", ["batchnorm", "reconstruction", "scal", "", "none.x", "../none"])
def test_other_names_are_refused_with_the_choices(name):
    with pytest.raises(ThinetError, match=r"choose among none, refit, scale\."):
        find("reconstruction", name, Reconstruction)
