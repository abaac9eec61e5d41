"""Reading budgets."""

from __future__ import annotations

import pytest

from thinet.base.errors import ThinetError
from thinet.widths.target import Target, Widths, recalibration


@pytest.mark.parametrize(
    ("text", "kind", "fraction"),
    [("flops:0.5", "flops", 0.5), ("params:.4", "params", 0.4), ("latency:6e-1", "latency", 0.6),
     ("macs:0.5", "flops", 0.5)],
)  # fmt: skip
def test_a_kind_and_a_fraction(text, kind, fraction):
    found = Target.parse(text)
    assert found == Target(kind, fraction)
    assert str(found) == text
    assert str(Target(kind, fraction)) == f"{kind}:{fraction:g}"
    assert Target.parse(str(Target(kind, fraction))) == found
    assert found.amount is None
    for full in (1, 7, 1e12):
        assert found.fraction_of(full) == fraction


@pytest.mark.parametrize(
    ("text", "kind", "amount"),
    [("flops:150M", "flops", 150e6), ("macs:75M", "flops", 150e6), ("flops:0.15g", "flops", 150e6),
     ("flops:.5B", "flops", 5e8), ("params:1.2M", "params", 1.2e6), ("params:800k", "params", 8e5),
     ("latency:3ms", "latency", 3), ("latency:2.5ms", "latency", 2.5),
     ("latency:800us", "latency", 0.8), ("latency:1s", "latency", 1000)],
)  # fmt: skip
def test_a_kind_and_an_amount(text, kind, amount):
    found = Target.parse(text)
    assert (found.kind, found.fraction) == (kind, None)
    assert found.amount == pytest.approx(amount, rel=1e-12)
    assert str(found) == text
    assert found == Target(kind, amount=found.amount)
    assert Target.parse(str(Target(kind, amount=amount))) == Target(kind, amount=amount)
    assert found.fraction_of(4 * amount) == pytest.approx(0.25)
    assert found.admits(amount, 1e15)
    assert not found.admits(1.001 * amount, 1e15)


@pytest.mark.parametrize(
    ("text", "full", "words", "example"),
    [("flops:150M", 30e6, "30M flops", "flops:15M"), ("macs:75M", 30e6, "15M macs", "macs:7.5M"),
     ("params:1.2M", 1.2e6, "1.2M params", "params:600K"),
     ("latency:3ms", 2.4, "2.4ms latency", "latency:1.2ms")],
)  # fmt: skip
def test_an_amount_that_the_full_network_is_below_is_refused(text, full, words, example):
    match = f"^target={text} leaves nothing to save, since the full network has {words}: type for "
    with pytest.raises(ThinetError, match=match + f"example target={example}.$"):
        Target.parse(text).fraction_of(full)
    assert Target.parse(example).fraction_of(full) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("text", "example"),
    [("macs:2", "macs:75M"), ("params:3ms", "params:0.4"), ("latency:3M", "latency:0.6"),
     ("latency:5", "latency:0.6"), ("latency:0ms", "latency:0.6")],
)  # fmt: skip
def test_the_example_is_of_the_kind_that_was_meant(text, example):
    with pytest.raises(ThinetError, match=rf"flops:150M.* type for example target={example}\.$"):
        Target.parse(text)


def test_either_a_fraction_or_an_amount():
    for given in ({}, {"fraction": 0.5, "amount": 1e6}, {"amount": 0}, {"amount": "1M"}):
        with pytest.raises(ThinetError, match="is not one of flops"):
            Target("flops", **given)


@pytest.mark.parametrize(
    "text",
    ["flops", "flops:", "flops:0", "flops:1", "flops:1.5", "flops:-0.5", "flops:nan", "flops:half",
     "MACS:0.5", "0.5", "", "flops:0.5:2", "FLOPS:0.5", 0.5, None, "flops:150X", "flops:-3M",
     "flops:2", "flops:0M", "flops:3ms", "flops:150000000", "flops:infM", "flops:nanM", "flops:M",
     "flops:1e999M", "flops:1 5M"],
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
