"""Reading budgets."""

from __future__ import annotations

import pytest

from thinet.base.errors import ThinetError
from thinet.widths.target import Target, Widths, recalibration


@pytest.mark.parametrize(
    ("text", "kind", "fraction"),
    [("flops:0.5", "flops", 0.5), ("params:.4", "params", 0.4), ("latency:6e-1", "latency", 0.6)],
)
def test_a_kind_and_a_fraction(text, kind, fraction):
    assert Target.parse(text) == Target(kind, fraction)
    assert str(Target.parse(text)) == f"{kind}:{fraction:g}"
    assert Target.parse(str(Target.parse(text))) == Target(kind, fraction)


@pytest.mark.parametrize(
    "text",
    ["flops", "flops:", "flops:0", "flops:1", "flops:1.5", "flops:-0.5", "flops:nan", "flops:half",
     "macs:0.5", "0.5", "", "flops:0.5:2", "FLOPS:0.5", 0.5, None],
)  # fmt: skip
def test_anything_else_is_refused_in_one_sentence(text):
    with pytest.raises(ThinetError, match=r"target=.* type for example target=flops:0.5") as caught:
        Target.parse(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"allocation": "greedy"}, "allocation=greedy is unknown: choose among uniform, error"),
        ({"allocation": "error"}, "needs one: type for example target=flops:0.5"),
        ({"round_to": 0}, "round_to=0 is not a whole number of at least 1"),
        ({"round_to": -8}, "round_to=-8 is not a whole number of at least 1"),
        ({"round_to": 2.0}, "round_to=2.0 is not a whole number"),
        ({"round_to": True}, "round_to=True is not a whole number"),
        ({"round_to": "8"}, "round_to=8 is not a whole number"),
    ],
)
def test_senseless_widths_are_refused_in_one_sentence(settings, match):
    with pytest.raises(ThinetError, match=match) as caught:
        Widths(**settings)
    assert "\n" not in str(caught.value)


def test_error_with_a_target_is_fine():
    assert Widths(Target("flops", 0.5), "error", 8).round_to == 8


def test_times_of_recalibration():
    for when in ("after", "each", "never"):
        assert recalibration(when) == when
    assert recalibration(True) == "after"
    assert recalibration(False) == "never"
    for wrong in ("before", "true", 1, None):
        with pytest.raises(ThinetError, match=f"recalibrate_bn={wrong} is unknown"):
            recalibration(wrong)


def test_messages_name_the_setting_it_was_given_in():
    for text in ("energy:0.5", "flops:2", "flops", 7):
        with pytest.raises(ThinetError, match=r"^a\.b=.*: type for example a\.b=flops:0\.5\.$"):
            Target.parse(text, "a.b")
    with pytest.raises(ThinetError, match=r"^a\.b=now is unknown"):
        recalibration("now", "a.b")
    assert Target.parse("flops:0.5", "a.b") == Target.parse("flops:0.5")
