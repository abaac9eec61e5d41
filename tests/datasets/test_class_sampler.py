"""Class-uniform batches: every one of them is counted."""

from __future__ import annotations

import json
import os
import random
import runpy
import subprocess
import sys
from collections import Counter
from functools import partial
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from torch import nn

import thinet
from tests import warm
from thinet.base.errors import ThinetError
from thinet.datasets.class_sampler import ClassUniform, SuperclassUniform
from thinet.datasets.digits import Digits
from thinet.datasets.sampler import TrainingOrder
from thinet.datasets.sampler_checks import (
    check_batches,
    check_sampler,
    cluster_count,
    images_per_class,
)
from thinet.engine.engine import Engine
from thinet.engine.objective import Supervised
from thinet.engine.phases import Phase
from thinet.engine.settings import Devices, Training

EVEN = [label % 12 for label in range(600)]
SKEWED = sorted([0] * 400 + [1] * 100 + [2] * 3 + [label for label in range(3, 12) for _ in "1234"])
random.Random(0).shuffle(SKEWED)
KINDS = {"even": EVEN, "skewed": SKEWED}


def make(labels=EVEN, seed=3, stage="a", epoch=0, rank=0, world=1, n=24, k=4, kind=ClassUniform):
    return kind(labels, n, TrainingOrder(seed, stage, epoch, rank, world), k=k)


def positions(sampler):
    return [[position for position, _ in batch] for batch in sampler]


@pytest.mark.parametrize("labels", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize(("n", "k"), [(24, 4), (24, 2), (36, 12), (12, 1), (24, 24)])
def test_every_batch_has_so_many_images_of_so_many_classes(labels, n, k):
    for epoch in range(4):
        sampler = make(labels, epoch=epoch, n=n, k=k)
        batches = positions(sampler)
        assert len(batches) == len(sampler) == len(labels) // n
        for batch in batches:
            assert len(batch) == n
            of = [labels[position] for position in batch]
            assert list(Counter(of).values()) == [k] * (n // k)
            assert of == [one for one in dict.fromkeys(of) for _ in range(k)], "class by class"


@pytest.mark.parametrize("labels", KINDS.values(), ids=KINDS)
def test_every_class_comes_equally_often(labels):
    found = Counter()
    sampler = make(labels)
    for epoch in range(120):
        sampler.set_epoch(epoch)
        for batch in positions(sampler):
            found.update({labels[position] for position in batch})
    # Without replacement the spread is narrower than the one that the test knows: by this factor.
    narrower, mean = (1 - 5 / 11) ** 0.5, sum(found.values()) / 12
    widened = [mean + (found[one] - mean) / narrower for one in range(12)]
    assert chisquare(widened).pvalue > 1e-3
    # and the test does see the imbalance of images
    by_size = [labels.count(one) for one in range(12)]
    assert (chisquare(by_size).pvalue < 1e-3) == (labels is SKEWED)


def test_images_of_a_class_come_equally_often_in_an_epoch():
    batches = positions(make(SKEWED))
    seen = Counter(position for batch in batches for position in batch)
    for one in range(12):
        times = [seen[at] for at, label in enumerate(SKEWED) if label == one]
        assert max(times) - min(times) <= 1, "shuffled anew before all have come"


def test_no_image_is_in_a_batch_twice_unless_its_class_is_too_small():
    labels = [0] * 5 + [1] * 7 + [2] * 3 + [3] * 40  # 5 and 7 end within a batch
    for epoch in range(40):
        for batch in positions(make(labels, epoch=epoch, n=8)):
            times = Counter(batch)
            small = sorted(times[at] for at in times if labels[at] == 2)
            assert not small or small == [1, 1, 2]
            assert all(times[at] == 1 for at in times if labels[at] != 2)


def test_a_single_image_stands_for_its_class_with_other_augmentations():
    labels = [0] + [1] * 30
    (first, *_) = make(labels, n=8)
    own = [seed for position, seed in first if position == 0]
    assert len(own) == len(set(own)) == 4


def test_images_within_a_class_are_in_another_order_each_time():
    firsts = {positions(make(EVEN, epoch=epoch))[0][0] for epoch in range(60)}
    assert len(firsts) > 30


@pytest.mark.parametrize("world", [1, 2, 4])
def test_ranks_have_whole_classes_and_together_the_batch_of_one_process(world):
    alone = list(make(n=32))
    ranks = [list(make(n=32, rank=rank, world=world)) for rank in range(world)]
    for batch, *parts in zip(alone, *ranks, strict=True):
        assert [pair for part in parts for pair in part] == batch
        for part in parts:
            of = Counter(EVEN[position] for position, _ in part)
            assert list(of.values()) == [4] * (8 // world)


def test_more_processes_may_need_more_images_of_each_class():
    assert [make(n=12, k="auto", world=world).k for world in (1, 2, 3)] == [4, 6, 4]
    with pytest.raises(ThinetError, match="3 classes, which 2 processes cannot share"):
        make(n=12, k=4, world=2)


@pytest.mark.parametrize("world", [1, 2])
def test_an_epoch_goes_on_where_it_was(world):
    whole = list(make(epoch=2, rank=world - 1, world=world))
    other = make(epoch=0, rank=world - 1, world=world)
    other.set_epoch(2)
    assert list(other) == whole
    other.resume(2, 7)
    torch.manual_seed(9)
    assert list(other) == whole[7:]
    other.set_epoch(3)
    assert len(list(other)) == len(whole), "only that epoch is cut short"
    assert len(other) == len(whole)


def test_batches_depend_on_seed_stage_and_epoch_alone():
    first = list(make())
    assert list(make()) == first
    for other in (make(seed=4), make(stage="b"), make(epoch=1)):
        assert positions(other) != positions(make())


def test_superclasses_take_the_place_of_classes():
    groups = [position % 7 for position in range(len(EVEN))]
    order = TrainingOrder(3, "a")
    sampler = SuperclassUniform(EVEN, 24, order, groups, 4)
    for batch in positions(sampler):
        assert list(Counter(groups[at] for at in batch).values()) == [4] * 6
    assert SuperclassUniform(EVEN, 24, order, groups).k == 4
    with pytest.raises(ValueError, match="3 superclasses for 600"):
        SuperclassUniform(EVEN, 24, order, groups[:3])
    with pytest.raises(ThinetError, match="takes 6 superclasses, but there are 5 superclasses"):
        SuperclassUniform(EVEN, 24, order, [one % 5 for one in groups], 4)


# -- what is possible


@pytest.mark.parametrize(
    ("n", "classes", "world", "k"),
    [(64, 100, 1, 4), (64, 10, 1, 8), (64, 16, 1, 4), (128, 1000, 8, 4), (64, 10, 2, 8),
     (60, 100, 2, 5), (60, 100, 4, 5), (64, 2, 2, 32), (96, 10, 3, 16), (18, 50, 1, 6),
     (64, None, 1, 4)],
)  # fmt: skip
def test_auto_is_four_or_the_next_that_fits(n, classes, world, k):
    assert images_per_class("auto", n, classes, world) == k


def typed(sentence):
    """The values that a sentence says to type."""
    advice = sentence.rpartition("type ")[2].rstrip(".")
    return [part.split("=") for part in advice.replace(", or ", " or ").split(" or ")]


@settings(max_examples=300, deadline=None)
@given(
    k=st.one_of(st.just("auto"), st.integers(1, 40)),
    n=st.integers(1, 130),
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=12),
    world=st.integers(1, 5),
)
def test_what_is_refused_says_what_would_do(k, n, sizes, world):
    labels = [one for one, size in enumerate(sizes) for _ in range(size)]
    try:
        found = check_batches(labels, len(sizes), n, k, world)
    except ThinetError as error:
        for key, value in typed(str(error)):
            if key == "sampler":
                assert value == "uniform"
                continue
            now = (n, int(value)) if key == "sampler.k" else (int(value), k)
            many = [*labels, *[0] * 1000]  # that there are too few is another sentence
            few = "training images, fewer than" in str(error)
            found = check_batches(labels if few else many, len(sizes), *now, world)
            assert found >= 2 or found == k
        return
    drawn, left = divmod(n, found)
    assert not left
    assert not drawn % world
    assert 1 <= drawn <= len(sizes)
    assert n <= len(labels)
    assert found >= 4 if k == "auto" else found == k
    parts = [
        positions(ClassUniform(labels, n, TrainingOrder(0, "a", 0, rank, world), k))
        for rank in range(world)
    ]
    assert all(len(batch) == n // world for part in parts for batch in part)


REFUSED = {
    "0": ((0, 64, 10), "sampler.k=0 is not a positive whole number: type sampler.k=4, or"),
    "-2": ((-2, 64, 10), "sampler.k=-2 is not a positive whole number"),
    "fraction": ((2.5, 64, 10), "sampler.k=2.5 is not a positive whole number"),
    "true": ((True, 64, 10), "sampler.k=True is not a positive whole number"),
    "word": (("four", 64, 10), "sampler.k=four is not a positive whole number"),
    "large": (
        (128, 64, 10),
        "sampler.k=128 images of each class are more than a batch of finetune.batch_size=64 has: "
        "type sampler.k=32 or finetune.batch_size=256.",
    ),
    "left over": (
        (5, 64, 20),
        "finetune.batch_size=64 is not divisible by sampler.k=5: "
        "type sampler.k=4 or finetune.batch_size=65.",
    ),
    "classes": (
        (4, 64, 10),
        "finetune.batch_size=64 with sampler.k=4 takes 16 classes, but there are 10 classes: "
        "type sampler.k=8 or finetune.batch_size=40.",
    ),
    "processes": (
        (4, 60, 100, 2),
        "finetune.batch_size=60 with sampler.k=4 makes 15 classes, which 2 processes cannot share "
        "so that each has whole ones: type sampler.k=3 or finetune.batch_size=64.",
    ),
    "auto": (
        ("auto", 7, 10),
        "finetune.batch_size=7 with sampler.k=auto cannot be made of two or more of 10 classes "
        "with 4 or more images each: type finetune.batch_size=8.",
    ),
    "auto, processes": (
        ("auto", 64, 10, 3),
        "with 4 or more images each, whole ones for each of 3 processes: "
        "type finetune.batch_size=60.",
    ),
    "one class": (
        ("auto", 64, 1),
        "cannot be made of two or more of 1 class with 4 or more images each: "
        "type sampler=uniform.",
    ),
    "superclasses": (
        (4, 64, 10, 1, "superclass"),
        "takes 16 superclasses, but there are 10 superclasses: type sampler.k=8 or",
    ),
}


@pytest.mark.parametrize(("given", "said"), REFUSED.values(), ids=REFUSED)
def test_refusals(given, said):
    with pytest.raises(ThinetError) as error:
        images_per_class(*given)
    assert said in str(error.value)
    assert str(error.value).count(". ") == 0, "one sentence"


@pytest.mark.parametrize(
    ("labels", "num_classes", "n", "said"),
    [
        ([0, 0, 1, 1] * 9, 3, 8, "class 2 (owl) has no training image, but sampler=class_uniform "
         "draws from every class: add images of it, or type sampler=uniform."),
        ([1] * 99, 3, 8, "class 0 (cat) and 1 more have no training image"),
        ([0, 1, 2] * 9, 3, 64, "finetune.batch_size=64 with sampler.k=4 takes 16 classes"),
        ([0, 1, 2] * 2, 3, 8, "there are 6 training images, fewer than a batch of "
         "finetune.batch_size=8: type finetune.batch_size=4."),
    ],
)  # fmt: skip
def test_refusals_of_images(labels, num_classes, n, said):
    with pytest.raises(ThinetError) as error:
        check_batches(labels, num_classes, n, 4, names=["cat", "dog", "owl"])
    assert said in str(error.value)
    with pytest.raises(ThinetError):
        ClassUniform(labels, n, TrainingOrder(0, "a"), 4, num_classes)


def configuration(**sampler):
    return {
        "sampler": {"name": "class_uniform", "k": "auto", **sampler},
        "finetune": {"batch_size": 64},
        "trainer": {"devices": 1, "num_nodes": 1},
        "dataset": {"num_classes": 10},
    }


def test_a_configuration_is_judged_without_torch():
    def said(batch_size=64, trainer=None, classes=10, **sampler):
        config = configuration(**sampler)
        config["finetune"]["batch_size"] = batch_size
        config["trainer"] |= trainer or {}
        config["dataset"]["num_classes"] = classes
        return " ".join(check_sampler(config))

    wide = {"name": "superclass_uniform", "clusters": "auto"}
    assert said() == said(name="uniform", k=0) == said(**wide) == said(k=4, classes=None) == ""
    assert said(trainer={"devices": "auto"}) == said(batch_size="many") == said(batch_size=0) == ""
    assert "sampler.k=128 images" in said(k=128)
    assert "not divisible" in said(batch_size=62, k=4)
    assert "takes 16 classes" in said(k=4)
    assert "2 processes cannot share" in said(k=64, trainer={"devices": 2})
    assert "6 processes cannot share" in said(
        k=4, batch_size=16, trainer={"devices": 2, "num_nodes": 3}
    )
    assert "sampler.name=odd is unknown: type sampler=uniform|class_uniform|" in said(name="odd")
    assert "takes 16 superclasses, but there are 5" in said(**wide | {"clusters": 5}, k=4)
    for wrong in (0, 2.5, "many", None):
        assert "sampler.clusters=" in said(**wide | {"clusters": wrong})
    assert "sampler.k=0" in said(**wide, k=0)
    program = "import sys, thinet.datasets.sampler_checks; assert 'torch' not in sys.modules"
    subprocess.run(
        [sys.executable, "-c", program], check=True, cwd=Path(thinet.__file__).parents[1]
    )


def test_superclasses_are_a_fifth_of_the_classes_and_fill_a_batch():
    assert cluster_count("auto", 1000, 64, "auto") == 200
    assert cluster_count("auto", 10, 64, "auto") == 16
    assert cluster_count("auto", 10, 64, 8) == 8
    assert cluster_count("auto", 10, 60, "auto", 2) == 12
    assert cluster_count(7, 1000, 64, 4) == 7


# -- trained with


def test_the_engine_trains_on_such_batches(tmp_path):
    seen = []

    class Watching(Supervised):
        def _loss(self, batch):
            seen.append(batch[1].tolist())
            return super()._loss(batch)

    data = Digits(image_size=8, batch_size=64, seed=3, num_classes=10)
    engine = Engine(data, Devices("cpu", progress="off", max_steps_per_epoch=2), seed=3)
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, 10))
    training = Training(partial(torch.optim.SGD, lr=1.0))
    objective = Watching(network, [Phase(2, 0.05)], training)
    engine.train(objective, "stage", tmp_path, ClassUniform)
    assert engine.step == 4
    assert [sorted(Counter(labels).values()) for labels in seen] == [[8] * 8] * 4
    engine.fit(
        network, [Phase(1, 0.05)], training, "next", tmp_path / "b", partial(ClassUniform, k=32)
    )
    assert engine.step == 6
    with pytest.raises(ThinetError, match="takes 16 classes, but there are 10"):
        engine.fit(
            network, [Phase(1, 0.05)], training, "c", tmp_path / "c", partial(ClassUniform, k=4)
        )


# A script, because Lightning starts it again as the second process.
SCRIPT = """
import json, sys
from collections import Counter
from functools import partial
from pathlib import Path
import torch
from torch import nn
from thinet.datasets.class_sampler import ClassUniform
from thinet.datasets.digits import Digits
from thinet.engine.engine import Engine
from thinet.engine.log_levels import silence_lightning
from thinet.engine.objective import Supervised
from thinet.engine.phases import Phase
from thinet.engine.settings import Devices, Training
from thinet.training.superclasses import superclasses
from thinet.base.errors import ThinetError

seen = []

class Watching(Supervised):
    def _loss(self, batch):
        seen.append(batch[1].tolist())
        return super()._loss(batch)

def main(folder, world):
    data = Digits(image_size=8, batch_size=64, seed=3, num_classes=10)
    devices = Devices("cpu", world, strategy="ddp" if world > 1 else "auto", progress="off",
                      max_steps_per_epoch=4)
    engine = Engine(data, devices, seed=3)
    engine.start_processes()
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, 10))
    training = Training(partial(torch.optim.SGD, lr=1.0))
    objective = Watching(network, [Phase(1, 0.05)], training)
    engine.train(objective, "stage", folder, partial(ClassUniform, k=8))
    looked = []
    def features(images):
        looked.append(len(images))
        return images.flatten(1)
    def broken(images):
        return images.flatten(1) * (float("nan") if engine.rank == world - 1 else 1.0)
    groups = superclasses(engine, features, 12, {"weights": "a"}, folder / "cache")
    again = superclasses(engine, features, 12, {"weights": "a"}, folder / "cache")
    try:
        superclasses(engine, broken, 12, {"weights": "b"}, folder / "cache")
        said = ""
    except ThinetError as error:
        said = str(error)
    found = {
        "labels": seen, "weight": network[1].weight.tolist(), "groups": groups,
        "again": again == groups, "looked": sum(looked), "said": said,
    }
    (folder / f"{engine.rank}.json").write_text(json.dumps(found))

if __name__ == "__main__":
    silence_lightning()
    main(Path(sys.argv[1]), 2)
"""


@pytest.fixture(scope="module")
def processes(tmp_path_factory):
    """What one process found alone, and what each of two found."""
    folder = tmp_path_factory.mktemp("processes")
    script = folder / "script.py"
    script.write_text(SCRIPT)
    places = {1: folder / "alone", 2: folder / "both"}
    for place in places.values():
        place.mkdir()
    runpy.run_path(str(script))["main"](places[1], 1)
    root = str(Path(thinet.__file__).parents[1])
    done = warm.run(
        [sys.executable, script, places[2]], cwd=folder, timeout=200, capture_output=True,
        env={**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"}, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return [
        [json.loads((place / f"{rank}.json").read_text()) for rank in range(world)]
        for world, place in places.items()
    ]


def test_two_processes_train_as_one(processes):
    (alone,), both = processes
    assert len(alone["labels"]) == 4
    for whole, *parts in zip(alone["labels"], *(one["labels"] for one in both), strict=True):
        assert [label for part in parts for label in part] == whole
        assert all(sorted(Counter(part).values()) == [8] * 4 for part in parts)
    for one in both:
        torch.testing.assert_close(
            torch.tensor(one["weight"]), torch.tensor(alone["weight"]), rtol=0, atol=1e-6
        )


def test_two_processes_find_the_superclasses_of_one(processes):
    (alone,), both = processes
    assert len(set(alone["groups"])) == 12
    for one in both:
        assert one["groups"] == alone["groups"]
        assert one["again"]
        assert one["looked"] < alone["looked"] == len(alone["groups"])
        assert "the teacher's features are not finite numbers" in one["said"]
    assert sum(one["looked"] for one in both) == alone["looked"]
