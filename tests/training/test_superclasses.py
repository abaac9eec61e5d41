"""Superclasses: k-means on a teacher's features, kept by content."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.cluster import KMeans
from torch import nn

from thinet.base.errors import ThinetError
from thinet.base.seeding import derive_seed
from thinet.datasets.digits import Digits
from thinet.datasets.images import TensorImages
from thinet.datasets.reading import ImageError
from thinet.datasets.unreadable import Unreadable
from thinet.engine.engine import Engine
from thinet.engine.settings import Devices
from thinet.training import superclasses as module
from thinet.training.superclasses import k_means, superclasses


class Broken(TensorImages):
    """Some images cannot be decoded."""

    broken: frozenset[int] = frozenset()

    def load(self, index):
        if index in self.broken:
            raise ImageError("broken", Unreadable(f"{index}.png", "cut off"))
        return super().load(index)


class Set(Digits):
    """A few digits, shifted where they are augmented."""

    broken: frozenset[int] = frozenset()

    def load_parts(self):
        parts = super().load_parts()
        train = Broken(parts.train.images[:300], parts.train.labels[:300])
        train.broken = self.broken
        return type(parts)(train, parts.test)


def make_engine(broken=(), seed=3, **settings):
    data = Set(**{"image_size": 8, "batch_size": 32, "crop": "pad", "seed": seed, **settings})
    data.broken = frozenset(broken)
    data.unreadable.fraction = 0.5
    return Engine(data, Devices("cpu", progress="off"), seed=seed)


class Teacher:
    """A small network that counts the images that it sees."""

    def __init__(self, seed=0):
        torch.manual_seed(seed)
        self.network = nn.Sequential(nn.Flatten(), nn.Linear(192, 16), nn.ReLU()).eval()
        self.seen = 0

    def __call__(self, images):
        assert not torch.is_grad_enabled()
        self.seen += len(images)
        return self.network(images)


@pytest.fixture
def said(monkeypatch):
    lines = []
    monkeypatch.setattr(module, "say", lines.append)
    return lines


CONTENT = {"weights": "abc", "feature": "1"}


def renumbered(labels):
    numbers = {}
    return [numbers.setdefault(int(one), len(numbers)) for one in labels]


def plainly(engine, teacher):
    """Features of the images as they lie on the disk, one after the other."""
    train, order = engine.data.load_parts().train, engine.data.plain_training().positions
    pixels = train.images.expand(-1, 3, -1, -1)[order]
    mean, std = (torch.tensor(one)[:, None, None] for one in (engine.data.mean, engine.data.std))
    with torch.no_grad():
        return F.normalize(torch.cat([teacher(one[None]) for one in (pixels - mean) / std]))


@pytest.mark.parametrize("clusters", [1, 7])
def test_it_is_k_means_on_features_of_images_that_are_not_augmented(clusters, tmp_path, said):
    engine, teacher = make_engine(), Teacher()
    found = superclasses(engine, teacher, clusters, CONTENT, tmp_path)
    points = plainly(engine, Teacher()).double().numpy()
    seed = derive_seed(3, "superclasses") % 2**32
    means = KMeans(clusters, init="k-means++", n_init=3, random_state=seed).fit(points)
    assert found == renumbered(means.labels_)
    assert len(set(found)) == clusters
    assert teacher.seen == len(found) == len(engine.data.plain_training())
    assert any(f"superclasses: {clusters} of " in line for line in said)


def test_features_count_by_direction_alone(tmp_path):
    teacher, scale = Teacher(), iter(range(1, 99))
    wanted = superclasses(make_engine(), teacher, 5, CONTENT, tmp_path / "a")
    found = superclasses(
        make_engine(), lambda images: teacher(images) * 10.0 ** next(scale), 5, CONTENT,
        tmp_path / "b",
    )  # fmt: skip
    assert found == wanted


def test_what_was_found_before_is_read(tmp_path, said):
    first, again = Teacher(), Teacher()
    found = superclasses(make_engine(), first, 5, CONTENT, tmp_path)
    said.clear()
    assert superclasses(make_engine(), again, 5, CONTENT, tmp_path) == found
    assert again.seen == 0
    assert len(said) == 1
    assert "found before, from" in said[0]


OTHERS = {
    "weights": lambda: (make_engine(), 5, {**CONTENT, "weights": "abd"}),
    "clusters": lambda: (make_engine(), 6, CONTENT),
    "seed": lambda: (make_engine(seed=4), 5, CONTENT),
    "size": lambda: (make_engine(image_size=10), 5, CONTENT),
    "split": lambda: (make_engine(val_fraction=0.2), 5, CONTENT),
    "mean": lambda: (make_engine(mean=(0.1, 0.1, 0.1)), 5, CONTENT),
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
def test_anything_else_is_looked_for_anew(other, tmp_path, said):
    superclasses(make_engine(), Teacher(), 5, CONTENT, tmp_path)
    engine, clusters, content = other()
    size, looked = engine.data.image_size, []

    def teacher(images):
        looked.append(len(images))
        return images.flatten(1)[:, : 3 * size]

    superclasses(engine, teacher, clusters, content, tmp_path)
    assert sum(looked) == len(engine.data.plain_training())
    assert len(list(tmp_path.iterdir())) == 2
    assert not any("is damaged" in line for line in said)


def damage(change):
    def apply(path):
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))

    return apply


def consistently(change):
    """Damage that the digest does not show."""

    def apply(content):
        content["superclasses"] = change(content["superclasses"])
        content["digest"] = module._digest(content["superclasses"])

    return damage(apply)


DAMAGED = {
    "cut off": lambda path: path.write_bytes(path.read_bytes()[:99]),
    "empty": lambda path: path.write_bytes(b""),
    "bytes": lambda path: path.write_bytes(b"\xff\x00"),
    "a list": lambda path: path.write_text("[]"),
    "one changed": damage(lambda content: content["superclasses"].__setitem__(0, 1)),
    "words": damage(lambda content: content.update(superclasses=["a"])),
    "other content": damage(lambda content: content["content"].update(seed="9")),
    "shorter": consistently(lambda found: found[:-1]),
    "none": consistently(lambda found: []),
    "out of range": consistently(lambda found: [99, *found[1:]]),
    "negative": consistently(lambda found: [-1, *found[1:]]),
}


@pytest.mark.parametrize("change", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_file_is_said_and_replaced(change, tmp_path, said):
    found = superclasses(make_engine(), Teacher(), 5, CONTENT, tmp_path)
    (path,) = tmp_path.iterdir()
    change(path)
    said.clear()
    teacher = Teacher()
    assert superclasses(make_engine(), teacher, 5, CONTENT, tmp_path) == found
    assert teacher.seen == len(found)
    assert sum("is damaged (" in line for line in said) == 1
    said.clear()
    assert superclasses(make_engine(), teacher, 5, CONTENT, tmp_path) == found
    assert "found before" in said[0]


@pytest.mark.parametrize("workers", [0, 1])
def test_images_that_cannot_be_decoded_have_that_of_their_class(workers, tmp_path, said):
    whole = make_engine().data.plain_training()
    labels = np.array(whole.labels)
    lost = np.concatenate([np.flatnonzero(labels == 4), np.flatnonzero(labels == 7)[:2]])
    engine = make_engine(whole.positions[lost].tolist(), num_workers=workers)
    teacher = Teacher()
    found = superclasses(engine, teacher, 6, CONTENT, tmp_path)
    assert len(found) == len(labels)
    there = np.setdiff1d(np.arange(len(labels)), lost)
    points = plainly(make_engine(), Teacher())[there].numpy()
    clusters = k_means(points, 6, derive_seed(3, "superclasses"))
    assert np.array(found)[there].tolist() == clusters
    often = Counter(np.array(found)[there][labels[there] == 7].tolist())
    assert all(often[found[at]] == max(often.values()) for at in np.flatnonzero(labels == 7)[:2])
    overall = Counter(clusters)
    assert all(overall[found[at]] == max(overall.values()) for at in np.flatnonzero(labels == 4))
    assert len(engine.data.unreadable.found) == len(lost)
    assert teacher.seen == len(there)


def test_too_many_that_cannot_be_decoded_are_refused(tmp_path):
    engine = make_engine(range(40))
    engine.data.unreadable.fraction = 0.001
    with pytest.raises(ThinetError, match="images cannot be read"):
        superclasses(engine, Teacher(), 6, CONTENT, tmp_path)


def test_none_that_can_be_decoded_are_refused(tmp_path):
    engine = make_engine(range(300))
    with pytest.raises(ThinetError, match="none of the training images can be read"):
        superclasses(engine, Teacher(), 6, CONTENT, tmp_path)


def test_features_that_are_not_finite_are_refused(tmp_path):
    for value in (torch.nan, torch.inf):
        with pytest.raises(ThinetError, match=r"not finite numbers.* type sampler=class_uniform"):
            superclasses(
                make_engine(), lambda images, v=value: images.flatten(1) * v, 6, CONTENT, tmp_path
            )
    assert not list(tmp_path.iterdir())


@pytest.mark.filterwarnings("error")
def test_fewer_differ_than_there_are_to_be_superclasses(tmp_path, said):
    def three(images):
        return F.one_hot((images.flatten(1).sum(1) * 7).long() % 3, 5).float()

    found = superclasses(make_engine(), three, 6, CONTENT, tmp_path)
    assert set(found) == {0, 1, 2}
    assert any("3 instead of 6, since no more features differ" in line for line in said)
    nothing = superclasses(
        make_engine(), lambda images: torch.zeros(len(images), 4), 6, {"weights": "0"}, tmp_path
    )
    assert set(nothing) == {0}
    assert k_means(np.eye(3, dtype=np.float32), 9, 0) == [0, 1, 2]


def test_of_very_many_images_some_are_looked_at_and_all_are_grouped(monkeypatch):
    random = np.random.default_rng(0)
    centres = 9 * random.standard_normal((4, 8))
    true = random.integers(0, 4, 1000)
    points = (centres[true] + random.standard_normal((1000, 8))).astype(np.float32)
    fitted, fit = [], KMeans.fit
    monkeypatch.setattr(module, "FITTED", 150)
    monkeypatch.setattr(
        KMeans, "fit", lambda self, X: (fitted.append(X), fit(self, X))[1]
    )  # fmt: skip
    assert k_means(points, 4, 1) == renumbered(true)
    assert fitted[0].shape == (150, 8)
    assert fitted[0].dtype == np.float64
    k_means(points, 4, 2)
    assert not np.array_equal(fitted[0], fitted[1]), "others by another seed"
    k_means(points, 4, 1)
    assert np.array_equal(fitted[0], fitted[2])


@pytest.mark.parametrize("workers", [0, 1])
def test_nobody_else_s_random_numbers_are_drawn(workers, tmp_path):
    engine, teacher = make_engine(num_workers=workers), Teacher()
    engine.data.plain_training()
    torch.manual_seed(5)
    np.random.seed(5)
    before, other = torch.get_rng_state(), np.random.get_state()[1].copy()
    superclasses(engine, teacher, 5, CONTENT, tmp_path)
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(np.random.get_state()[1], other)


def test_a_long_pass_says_how_far_it_is(tmp_path, said, monkeypatch):
    monkeypatch.setattr(module, "PATIENCE", 0.0)
    superclasses(make_engine(), Teacher(), 5, CONTENT, tmp_path)
    assert said[1].startswith("superclasses: 32 of 270 images, ")
    assert said[1].endswith(" left")
