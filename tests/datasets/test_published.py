"""CIFAR-10, CIFAR-100, MNIST and Fashion-MNIST, written here in their published binary formats."""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.datasets import cifar

from thinet.base.errors import ThinetError
from thinet.datasets.cifar10 import CIFAR10
from thinet.datasets.cifar100 import CIFAR100
from thinet.datasets.fashion_mnist import FashionMNIST
from thinet.datasets.mnist import MNIST
from thinet.datasets.module import ImageData

ALL = [CIFAR10, CIFAR100, MNIST, FashionMNIST]
IDX = [MNIST, FashionMNIST]
PLAIN = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0), "batch_size": 16}


@pytest.fixture
def cifar_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Six batches of 20 images; red, green and blue planes row by row, as published."""
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]:
        batch = {
            b"batch_label": name.encode(),
            b"labels": [i % 10 for i in range(20)],
            b"data": rng.integers(0, 256, (20, 3072), dtype=np.uint8),
            b"filenames": [b"x.png"] * 20,
        }
        entry = {key.decode(): value for key, value in batch.items()}
        (folder / name).write_bytes(pickle.dumps(entry, protocol=2))
    names = {"label_names": list(CIFAR10.class_names), "num_vis": 3072}
    (folder / "batches.meta").write_bytes(pickle.dumps(names, protocol=2))
    # the real files' checksums are known; these are other images
    monkeypatch.setattr(cifar, "check_integrity", lambda path, md5=None: Path(path).is_file())
    return tmp_path


@pytest.fixture
def cifar100_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One batch of 200 images for each part, with two kinds of labels."""
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in ("train", "test"):
        entry = {
            "filenames": ["x.png"] * 200,
            "batch_label": f"{name}ing batch 1 of 1",
            "fine_labels": [i % 100 for i in range(200)],
            "coarse_labels": [i % 20 for i in range(200)],
            "data": rng.integers(0, 256, (200, 3072), dtype=np.uint8),
        }
        (folder / name).write_bytes(pickle.dumps(entry, protocol=2))
    names = {
        "fine_label_names": [f"fine {i}" for i in range(100)],
        "coarse_label_names": [f"coarse {i}" for i in range(20)],
    }
    (folder / "meta").write_bytes(pickle.dumps(names, protocol=2))
    monkeypatch.setattr(cifar, "check_integrity", lambda path, md5=None: Path(path).is_file())
    return tmp_path


@pytest.fixture
def idx_root(tmp_path: Path) -> Path:
    """IDX files of both data sets: big-endian header, then bytes."""
    rng = np.random.default_rng(0)
    for name in ("MNIST", "FashionMNIST"):
        folder = tmp_path / name / "raw"
        folder.mkdir(parents=True)
        for part, count in (("train", 60), ("t10k", 20)):
            pixels = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
            labels = (np.arange(count) % 10).astype(np.uint8)
            header = struct.pack(">IIII", 0x00000803, count, 28, 28)
            (folder / f"{part}-images-idx3-ubyte").write_bytes(header + pixels.tobytes())
            header = struct.pack(">II", 0x00000801, count)
            (folder / f"{part}-labels-idx1-ubyte").write_bytes(header + labels.tobytes())
    return tmp_path


def test_cifar10_pixels(cifar_root: Path) -> None:
    data = CIFAR10(root=str(cifar_root), image_size=32, **PLAIN)
    data.setup()
    raw = pickle.loads((cifar_root / "cifar-10-batches-py/test_batch").read_bytes())["data"]
    images = torch.cat([x for x, _ in data.test_dataloader()])
    np.testing.assert_allclose(images.numpy() * 255, raw.reshape(-1, 3, 32, 32), atol=1e-3)
    labels = torch.cat([y for _, y in data.test_dataloader()]).tolist()
    assert labels == [i % 10 for i in range(20)]
    assert len(data.val_dataloader().dataset) == 10
    assert len(data.train_dataloader().dataset) == 90
    assert data.classes[3] == "cat"


def test_cifar10_default_normalisation_is_imagenets() -> None:
    data = CIFAR10(image_size=32)
    assert data.mean == (0.485, 0.456, 0.406)
    assert data.std == (0.229, 0.224, 0.225)


def test_cifar100_has_its_fine_labels(cifar100_root: Path) -> None:
    data = CIFAR100(root=str(cifar100_root), image_size=32, **PLAIN)
    data.setup()
    raw = pickle.loads((cifar100_root / "cifar-100-python/test").read_bytes())["data"]
    images = torch.cat([x for x, _ in data.test_dataloader()])
    np.testing.assert_allclose(images.numpy() * 255, raw.reshape(-1, 3, 32, 32), atol=1e-3)
    labels = torch.cat([y for _, y in data.test_dataloader()]).tolist()
    assert labels == [i % 100 for i in range(200)]
    assert len(data.val_dataloader().dataset) == 100
    assert data.num_classes == len(set(data.classes)) == 100
    assert data.classes == sorted(data.classes)
    assert (data.classes[0], data.classes[23], data.classes[99]) == ("apple", "cloud", "worm")


def test_cifar100_is_normalised_by_its_own_images() -> None:
    data = CIFAR100(image_size=32)
    assert data.mean == (0.5071, 0.4867, 0.4408)
    assert data.std == (0.2675, 0.2565, 0.2761)


@pytest.mark.parametrize(("kind", "last"), [(MNIST, "9"), (FashionMNIST, "Ankle boot")])
def test_idx_pixels(kind: Callable[..., ImageData], last: str, idx_root: Path) -> None:
    data = kind(root=str(idx_root), image_size=28, **PLAIN)
    data.setup()
    folder = idx_root / kind.__name__ / "raw"
    for part, view in (("train", data._plain_train), ("t10k", data._test)):
        raw = np.frombuffer((folder / f"{part}-images-idx3-ubyte").read_bytes()[16:], np.uint8)
        raw = raw.reshape(-1, 1, 28, 28).repeat(3, axis=1)
        images = torch.stack([view[i][0] for i in range(len(view))]).numpy()
        np.testing.assert_allclose(images * 255, raw[view.positions], atol=1e-3)
        assert view.labels == (view.positions % 10).tolist()
    assert data.classes[9] == last


@pytest.mark.parametrize("kind", IDX)
def test_small_images_are_enlarged(kind: Callable[..., ImageData], idx_root: Path) -> None:
    data = kind(root=str(idx_root), image_size=32, batch_size=60)
    assert next(iter(data.train_dataloader()))[0].shape[1:] == (3, 32, 32)


def test_what_old_versions_left_is_not_read(idx_root: Path) -> None:
    """torchvision would load ``processed/*.pt`` in place of the published files."""
    folder = idx_root / "MNIST" / "processed"
    folder.mkdir()
    for name in ("training.pt", "test.pt"):
        torch.save((torch.zeros(7, 28, 28, dtype=torch.uint8), torch.zeros(7)), folder / name)
    data = MNIST(root=str(idx_root), image_size=28, **PLAIN)
    assert len(data.test_dataloader().dataset) == 20


def test_mnist_is_normalised_by_its_own_images() -> None:
    data = MNIST(image_size=32)
    assert data.mean == (0.1307, 0.1307, 0.1307)
    assert data.std == (0.3081, 0.3081, 0.3081)


@pytest.mark.parametrize("kind", ALL)
def test_missing_names_both_ways_out(kind: Callable[..., ImageData], tmp_path: Path) -> None:
    for root in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ThinetError) as caught:
            kind(root=str(root), image_size=32).setup()
        assert f"dataset.root={root}" in str(caught.value)
        assert "dataset.download=true" in str(caught.value)


@pytest.mark.parametrize("kind", ALL)
def test_a_failing_download_is_one_sentence(
    kind: Callable[..., ImageData], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = kind(root=str(tmp_path), image_size=32, download=True)
    data.check()

    def refuse(*_: object, **__: object) -> None:
        raise OSError("network is\nunreachable")

    monkeypatch.setattr("thinet.datasets.archives.download_url", refuse)
    with pytest.raises(ThinetError, match="could not be downloaded") as caught:
        data.prepare_data()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "folder"), [(CIFAR10, "cifar-10-batches-py"), (CIFAR100, "cifar-100-python")]
)
def test_damaged_cifar_is_noticed_by_its_checksum(
    kind: Callable[..., ImageData],
    folder: str,
    cifar_root: Path,
    cifar100_root: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.undo()
    data = kind(root=str(cifar_root), image_size=32)
    data.check()
    with pytest.raises(ThinetError, match=rf"damaged .*{folder} and type"):
        data.setup()


def replaced(name: str, content: Callable[[bytes], bytes]) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(content((folder / name).read_bytes()))


@pytest.mark.parametrize("kind", IDX)
@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (replaced("train-images-idx3-ubyte", lambda x: x[:1000]), "damaged"),
        (replaced("t10k-images-idx3-ubyte", lambda x: x + b"more"), "damaged"),
        (replaced("train-labels-idx1-ubyte", lambda x: x[:2]), "damaged"),
        (replaced("train-labels-idx1-ubyte", lambda x: b"\x00\x00\x08\x01\x00\x00\x00\x01\x00"),
         r"damaged \(1 labels of 60 images\)"),
        (replaced("train-labels-idx1-ubyte", lambda x: x[:-1] + b"\x0a"),
         r"damaged \(labels from 0 to 10\)"),
    ],
)  # fmt: skip
def test_damaged_idx_files_are_noticed(
    kind: Callable[..., ImageData], spoil: Callable[[Path], object], words: str, idx_root: Path
) -> None:
    spoil(idx_root / kind.__name__ / "raw")
    with pytest.raises(ThinetError, match=words) as caught:
        kind(root=str(idx_root), image_size=32).setup()
    assert "\n" not in str(caught.value)
