from __future__ import annotations

from dataclasses import replace

from tests.report.conftest import measurement, pruned, scanned, scratch, toy, trained
from thinet.report.table import compare, headline, left_out, peak_memory, setting, size, subject


def test_headline() -> None:
    result = pruned(share=9_340_000_000 / 30_940_000_000)
    assert headline(result) == "98.89 % top-1 → 97.69 % top-1 at 3.31x fewer FLOPs"
    assert headline(trained()) == "98.89 % top-1, 30.94 B FLOPs"
    assert headline(replace(result, model=result.reference)).endswith(
        "98.89 % top-1 at the same cost"
    )
    untrained = replace(result, reference=replace(result.reference, top1=None))
    assert headline(untrained) == "97.69 % top-1 at 3.31x fewer FLOPs"


def test_the_headline_names_the_cost_that_differs() -> None:
    """Fewer bits alone are a saving; a latency that differs by chance is none."""
    plain = measurement(0.9)
    result = replace(toy(), reference=plain, model=replace(plain, bits=plain.bits // 8))
    assert headline(result).endswith("at 8.00x fewer bits of parameters")
    result = replace(toy(), reference=plain, model=replace(plain, latency_ms=20.0))
    assert headline(result).endswith("at the same cost")


def test_compare_states_both_networks_and_the_change() -> None:
    lines = {line.label: line for line in compare(pruned())}

    assert lines["top-1"].change == "-1.20 points"
    assert (lines["latency"].reference, lines["latency"].model) == ("21.00 ms", "12.00 ms")
    assert lines["latency"].change == "1.75x faster"
    assert lines["FLOPs"].reference == "30.94 B"


def test_costs_that_nobody_knows_are_no_lines() -> None:
    labels = [line.label for line in compare(pruned())]
    assert "binary operations" not in labels
    assert "bits of parameters" not in labels  # 32 for each parameter say nothing new
    lines = {line.label: line for line in compare(toy())}
    assert (lines["binary operations"].reference, lines["binary operations"].model) == (
        "0",
        "1.90 M",
    )
    assert lines["bits of parameters"].change == "24.43x fewer"
    silent = replace(trained(), reference=measurement(0.9, latency_ms=None))
    assert "latency" not in [line.label for line in compare(silent)]
    assert [line.model for line in compare(silent)] == ["n/a"] * 7


def test_the_subject_says_what_was_done_and_nothing_else() -> None:
    assert subject(pruned()) == "prune: vgg16 on digits, thinet, scale, layerwise, ratio 0.3"
    assert subject(trained()) == "train: vgg16 on digits"
    assert subject(scanned()) == "sensitivity: vgg16 on digits, thinet, scale"
    assert subject(scratch(settings={"ratio": {"a": 0.5}})) == (
        "scratch: vgg16 on digits, ratio per layer"
    )
    target = scratch(settings={"target": "flops:0.5", "ratio": None}, sizes=("ratio", "target"))
    assert subject(target) == "scratch: vgg16 on digits, target flops:0.5"
    assert size(target) == "target flops:0.5"


def test_settings_are_written_as_they_are_typed() -> None:
    assert setting({"features.*": 0.5, "x": [1, "a"]}) == "{features.*:0.5,x:[1,a]}"
    assert setting(True) == "true"


def test_peak_memory_is_that_of_the_hungriest_step() -> None:
    steps = pruned(3).steps
    assert peak_memory(steps) == ""
    used = ((500.4, "process"), (812.6, "process"), (30.0, "GPU"))
    steps = tuple(
        replace(step, peak_memory_mb=most, peak_memory_of=what)
        for step, (most, what) in zip(steps, used, strict=True)
    )
    assert peak_memory(steps) == "813 MB at most (process)"


def test_images_left_out() -> None:
    assert left_out(trained()) == ""
    assert left_out(trained(unreadable_images=("a",))).startswith("an image was left out")
    assert left_out(trained(unreadable_images=("a", "b"))).startswith("2 images were left out")
