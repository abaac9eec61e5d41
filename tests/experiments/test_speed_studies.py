"""The speed studies on tiny sizes: they compare what they say they compare. No timings."""

from __future__ import annotations

import csv
import gc
import itertools
import statistics

import pytest
import torch
from torch import nn

from experiments import timing
from experiments.finetuning_throughput import run as finetuning
from experiments.oneshot_speed import run as oneshot
from experiments.slim_speed import run as slim_speed
from experiments.slim_speed import variants
from experiments.statistics_speed import run as statistics_speed
from thinet.datasets.digits import Digits
from thinet.engine.phases import Phase
from thinet.metrics import cost
from thinet.metrics.memory import forget_peak
from thinet.models.small_vgg import vgg_small
from thinet.pruning.statistics import ContributionMoments, Sampling, collect
from thinet.surgery import trace

CPU = torch.device("cpu")


def small(num_classes: int = 10, image_size: int = 8) -> nn.Module:
    torch.manual_seed(0)
    return vgg_small(num_classes, image_size, widths=(4, 8)).eval()


def test_tasks_take_turns_in_an_order_that_moves_on():
    calls: list[str] = []
    ticks = itertools.count()
    tasks = {name: lambda name=name: calls.append(name) for name in "abc"}
    times = timing.take_turns(tasks, rounds=3, warm_up=1, clock=lambda: float(next(ticks)))
    assert "".join(calls) == "abc" + "abc" + "bca" + "cab"
    assert times == {name: [1.0, 1.0, 1.0] for name in "abc"}  # the clock ticks once within a task


def test_patience_ends_after_the_least_number_of_rounds():
    ticks = itertools.count()
    tasks = {"a": lambda: None}
    times = timing.take_turns(tasks, 50, patience=0, least=4, clock=lambda: float(next(ticks)))
    assert len(times["a"]) == 4


def test_garbage_is_collected_within_a_round_only_where_it_is_part_of_the_cost():
    seen = []
    for hold in (True, False):
        timing.take_turns(
            {"a": lambda: seen.append(gc.isenabled())}, 1, warm_up=0, hold_garbage=hold
        )
    assert seen == [False, True]


def test_garbage_collection_is_on_again_after_an_error():
    def fail() -> None:
        raise ValueError

    with pytest.raises(ValueError, match=r"^$"):
        timing.take_turns({"a": fail}, 1, warm_up=0)
    assert gc.isenabled()


def test_ratios_are_taken_within_a_round():
    times = {"a": [1.0, 20.0, 3.0, 8.0], "b": [1.0, 10.0, 1.0, 2.0]}
    assert timing.ratio(times, "a", "b") == 2.5  # of 1, 2, 3, 4; the ratio of medians is 3.67
    low, _, high = statistics.quantiles([1, 2, 3, 4], n=4)
    assert timing.spread(times, "a", "b") == pytest.approx((high - low) / 2)


def test_tables(tmp_path):
    rows = [
        {"name": "a", "value": 1.23456789, "none": None},
        {"name": "b", "value": 2.0, "none": 1},
    ]
    timing.write_rows(tmp_path / "results.csv", rows)
    with (tmp_path / "results.csv").open(newline="") as file:
        assert list(csv.DictReader(file)) == [
            {"name": "a", "value": "1.2346", "none": ""},
            {"name": "b", "value": "2", "none": "1"},
        ]
    table = timing.markdown(rows, {"name": "who", "value": "what|.1f", "none": "x"})
    assert table.splitlines() == [
        "| who | what | x |",
        "|---|---|---|",
        "| a | 1.2 |  |",
        "| b | 2.0 | 1 |",
    ]


def test_threads_are_put_back():
    before = torch.get_num_threads()
    with timing.threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


def test_peak_memory_sees_what_was_freed_again(fresh):
    before, after = fresh("tests.experiments.test_speed_studies:peaks", cold=True)
    if before is None:
        pytest.skip("this system does not tell")
    assert after >= before + 0.2


def peaks():
    forget_peak()
    before = timing.peak_gib()
    block = torch.ones(2**26)  # a quarter of a GiB
    del block
    return before, timing.peak_gib()


def test_statistics_speed_times_the_pass_that_collect_makes(monkeypatch):
    network, images = small(), torch.randn(6, 3, 8, 8)
    group = trace(network, images[:1]).groups["features.0"]
    seen: list[ContributionMoments] = []
    make = ContributionMoments.for_group.__func__

    def for_group(cls, *args):
        seen.append(make(cls, *args))
        return seen[-1]

    monkeypatch.setattr(ContributionMoments, "for_group", classmethod(for_group))
    tasks = statistics_speed.passes(network, group, images, ["sampled"])
    assert list(tasks) == ["plain", "sampled"]
    for task in tasks.values():
        task()
    wanted = collect(
        network, [group], [ContributionMoments], [(images, list(range(6)))], Sampling(),
        statistics_speed.CALIBRATION,
    )[group.name][ContributionMoments]  # fmt: skip
    torch.testing.assert_close(seen[0].summary().gram, wanted.gram)
    assert wanted.gram.any()


def test_a_plain_pass_stops_at_the_reader():
    network, images = small(), torch.randn(2, 3, 8, 8)
    group = trace(network, images[:1]).groups["features.0"]
    reached: list[str] = []
    for name, module in network.named_modules():
        module.register_forward_hook(lambda *_, name=name: reached.append(name))
    statistics_speed.passes(network, group, images, [])["plain"]()
    assert group.consumers[0].weight == "features.3.weight"
    assert [name for name in reached if name] == ["features.0", "features.1", "features.2"]


def test_what_a_layer_costs_once_is_counted_in_images():
    times = {"plain": [2.0, 2.0], "one": [0.5, 0.5], "whole": [1.5, 1.5]}
    assert statistics_speed.in_images(times, "whole", images=8) == 4  # 1 s; an image takes 0.25 s


def test_statistics_speed_draws(tmp_path):
    network, images = small(), torch.randn(2, 3, 8, 8)
    group = trace(network, images[:1]).groups["features.3"]
    row = {"network": "small", **statistics_speed.measure(network, group, images, 1, 0)}
    assert row["sampled_rounds"] == row["patches_all_rounds"] == 1
    statistics_speed.draw([row], "tiny", tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes()[1:4] == b"PNG"


def test_oneshot_speed_prunes_with_the_settings_it_names(tmp_path):
    network, batches = small(), torch.randn(8, 3, 8, 8).split(4)
    rows = oneshot.measure("small", network, batches, rounds=1)
    assert [row["way"] for row in rows] == ["thinet", "weight_sum"]
    assert all(row["images"] == 8 and row["layers"] == 4 for row in rows)
    assert all(0 < row["flops_left"] < 0.6 for row in rows)
    assert cost(network, (3, 8, 8)) == cost(small(), (3, 8, 8))  # left as it was
    oneshot.draw(rows, "tiny", tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes()[1:4] == b"PNG"


@pytest.fixture
def subject(monkeypatch) -> variants.Subject:
    chosen = variants.Subject("small", small, ("features.0", "features.7"), 0.3)
    monkeypatch.setitem(variants.SUBJECTS, "small", chosen)
    slim_speed.pair.cache_clear()
    return chosen


@pytest.mark.parametrize(("round_to", "widths"), [(1, [1, 2]), (2, [2, 2])])
def test_slimmed_has_the_widths_of_the_ratio(subject, round_to, widths):
    full = small()
    slim = variants.slimmed(full, subject, round_to, 8)
    assert [slim.features[place].out_channels for place in (0, 7)] == widths
    assert slim.features[3].out_channels == 4  # not asked for
    assert variants.flops_ratio(full, slim, 8) > 1
    assert full.features[0].out_channels == 4


def test_the_paper_s_network_has_its_flops():
    with torch.device("meta"):
        full = variants.vgg16(1000, 224)
    slim = variants.slimmed(full.to_empty(device="cpu"), variants.SUBJECTS["vgg16"], 1, 224)
    assert cost(slim, (3, 224, 224)).flops / 1e9 == pytest.approx(9.58, abs=0.03)  # Table 1


def test_a_cell_is_run_in_its_layout_type_and_mode(subject):
    cell = variants.Cell("small", 2, "both", "channels_last", "bfloat16")
    network = variants.prepared(small(), cell, CPU)
    batch = variants.images(cell, 8, CPU)
    assert network.training
    assert batch.dtype == network.features[0].weight.dtype == torch.bfloat16
    assert batch.is_contiguous(memory_format=torch.channels_last)
    assert network.features[3].weight.is_contiguous(memory_format=torch.channels_last)
    seen = []
    network.features[0].weight.register_hook(lambda gradient: seen.append(gradient.abs().max() > 0))
    variants.work(network, batch, "both")()
    assert seen == [True]
    assert all(parameter.grad is None for parameter in network.parameters())


def test_one_at_a_time_changes_one_thing_and_everything_all():
    cells = variants.one_at_a_time(list(variants.SUBJECTS), compiles=True)
    assert len(cells) == len(set(cells))
    assert {cell.subject for cell in cells} == set(variants.SUBJECTS)
    order = [cell.subject for cell in cells]
    assert order == sorted(order, key=list(variants.SUBJECTS).index)
    without = variants.one_at_a_time(list(variants.SUBJECTS), compiles=False)
    assert set(cells) - set(without) == {cell for cell in cells if cell.mode == "compile"} != set()
    assert len(variants.everything(["vgg16"], compiles=True)) == 2 * 2 * 2 * 2 * 2 * 3


def test_slim_speed_measures_and_draws(subject, tmp_path):
    cells = [variants.Cell("small", 2), variants.Cell("small", 2, "both", dtype="bfloat16")]
    rows = [slim_speed.measure(cell, 8, CPU, rounds=1, patience=0) for cell in cells]
    for row in rows:
        assert row["share"] == pytest.approx(row["speed_up"] / row["flops_ratio"])
    assert slim_speed.label(rows[0]) == "small, batch 2, forward"
    assert slim_speed.label(rows[1]) == "small, batch 2, forward + backward, bfloat16"
    slim_speed.draw(rows, "tiny", tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes()[1:4] == b"PNG"


def test_the_loop_by_hand_ends_in_the_same_bits_as_the_engine(tmp_path):
    data = Digits(image_size=8, batch_size=32, crop="pad", seed=3)
    data.setup()
    setting = finetuning.Setting(small().train(), data, Phase(2, 0.05, "cosine"), CPU, most=3)
    engine = finetuning.by_engine(setting, tmp_path / "engine")
    hand = finetuning.by_hand(setting, tmp_path / "hand")
    assert finetuning.furthest(engine, hand) == 0
    assert finetuning.furthest(engine, setting.network) > 0
    assert setting.images == 96
    for left, right in zip(engine.buffers(), hand.buffers(), strict=True):
        assert torch.equal(left, right)
