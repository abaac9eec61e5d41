"""How a method and what its family has to say are found: by the class its yaml names."""

from __future__ import annotations

import pytest

from thinet.app.config import check
from thinet.app.methods import check_method, make_method
from thinet.base.errors import ThinetError

TOY = """
from dataclasses import dataclass
from thinet.run.method import Method

@dataclass(frozen=True)
class Toy(Method):
    ratio: float
    remembers = dict

    @classmethod
    def configure(cls, settings):
        return cls(settings["ratio"])

    def plan(self, setup, progress): ...
    def show(self, plan): ...
    def run(self, session, plan): ...

class Other:
    pass
"""


@pytest.fixture
def family(tmp_path, monkeypatch):
    """A family of the user's own, by its name; ``checks`` is the text of its checks module."""

    def make(name, checks=None):
        package = tmp_path / name
        package.mkdir()
        (package / "__init__.py").touch()
        (package / "method.py").write_text(TOY)
        if checks is not None:
            (package / "checks.py").write_text(checks)
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.setenv("THINET_TRUST", name)
        return {
            "seed": 0, "ratio": 0.5, "model": {}, "method": {
                "name": "toy", "reads": ["ratio"], "build": {"_target_": f"{name}.method.Toy"},
            },
        }  # fmt: skip

    return make


def test_a_family_without_checks_has_nothing_to_say(family):
    config = family("toy_without")
    assert check_method(config) == []
    assert make_method(config).ratio == 0.5


def test_a_familys_checks_are_found_and_asked(family):
    checks = "def find_problems(config):\n    return [f'ratio={config[\"ratio\"]} is odd.']\n"
    assert check_method(family("toy_with", checks)) == ["ratio=0.5 is odd."]


def test_an_error_inside_the_checks_is_not_taken_for_their_absence(family):
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        check_method(family("toy_broken", "import no_such_module\n"))


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("toy_wrong.method.Other", "Other"),
        ("toy_wrong.method.Nothing", "Nothing"),
        ("toy_wrong.nowhere.Toy", "nowhere"),
        ("toy_wrong.method.dataclass", "dataclass"),
    ],
)
def test_what_is_no_method_is_one_sentence(family, target, words):
    config = family("toy_wrong")
    config["method"]["build"]["_target_"] = target
    assert check_method(config) == []
    with pytest.raises(ThinetError, match=words) as caught:
        make_method(config)
    assert "\n" not in str(caught.value)
    assert "method.build._target_" in str(caught.value)


def test_a_method_may_read_only_what_its_yaml_names(family):
    config = family("toy_nosy")
    config["method"]["reads"] = []
    with pytest.raises(ThinetError, match=r"ratio is not among method\.reads"):
        make_method(config)


def test_a_stranger_is_refused_before_anything_is_imported(family, monkeypatch):
    config = family("toy_stranger", "raise RuntimeError('it was imported')\n")
    monkeypatch.delenv("THINET_TRUST")
    with pytest.raises(ThinetError, match=r"^method\.build\._target_='toy_stranger"):
        check_method(config)


@pytest.mark.parametrize("method", ["prune", "scratch", "sensitivity", "train"])
def test_ours_check_what_they_read(method, compose):
    wrong = compose(f"method={method}", "ratio=2", "layers=null")
    if method == "train":
        assert check(wrong)["ratio"] == 2, "it reads neither"
        return
    with pytest.raises(ThinetError, match="layers=None") as caught:
        check(wrong)
    assert ("ratio=2" in str(caught.value)) == (method != "sensitivity")
