"""CIFAR-10 and Fashion-MNIST, written here in their published binary formats."""

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
from thinet.datasets.fashion_mnist import FashionMNIST
from thinet.datasets.module import ImageData

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
def fashion_root(tmp_path: Path) -> Path:
    """IDX files: big-endian header, then bytes."""
    folder = tmp_path / "FashionMNIST" / "raw"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
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


def test_fashion_mnist_pixels(fashion_root: Path) -> None:
    data = FashionMNIST(root=str(fashion_root), image_size=28, **PLAIN)
    data.setup()
    raw = (fashion_root / "FashionMNIST/raw/t10k-images-idx3-ubyte").read_bytes()[16:]
    expected = np.frombuffer(raw, np.uint8).reshape(20, 1, 28, 28).repeat(3, axis=1)
    images = torch.cat([x for x, _ in data.test_dataloader()])
    np.testing.assert_allclose(images.numpy() * 255, expected, atol=1e-3)
    assert data.classes[9] == "Ankle boot"


def test_fashion_mnist_is_enlarged(fashion_root: Path) -> None:
    data = FashionMNIST(root=str(fashion_root), image_size=32, batch_size=60)
    assert next(iter(data.train_dataloader()))[0].shape[1:] == (3, 32, 32)


@pytest.mark.parametrize("kind", [CIFAR10, FashionMNIST])
def test_missing_names_both_ways_out(kind: Callable[..., ImageData], tmp_path: Path) -> None:
    for root in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ThinetError) as caught:
            kind(root=str(root), image_size=32).setup()
        assert f"dataset.root={root}" in str(caught.value)
        assert "dataset.download=true" in str(caught.value)


@pytest.mark.parametrize("kind", [CIFAR10, FashionMNIST])
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


def test_damaged_cifar10_is_noticed_by_its_checksum(
    cifar_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    data = CIFAR10(root=str(cifar_root), image_size=32)
    data.check()
    with pytest.raises(ThinetError, match=r"damaged .*cifar-10-batches-py and type"):
        data.setup()


def test_damaged_fashion_mnist_is_noticed(fashion_root: Path) -> None:
    file = fashion_root / "FashionMNIST/raw/train-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ThinetError, match="damaged"):
        FashionMNIST(root=str(fashion_root), image_size=32).setup()
