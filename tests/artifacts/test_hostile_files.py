"""Specs, weights, archives and folders of strangers: one sentence, nothing run, nothing filled."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import struct
import tarfile
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
import torchvision
from PIL import Image
from safetensors.torch import save_file

import thinet
from thinet.artifacts.store import Spec, load, read_spec
from thinet.base.errors import ThinetError
from thinet.base.files import read_json
from thinet.cli import main
from thinet.datasets.cifar10 import CIFAR10
from thinet.datasets.cifar100 import CIFAR100
from thinet.datasets.fashion_mnist import FashionMNIST
from thinet.datasets.layout import class_folders
from thinet.datasets.mnist import MNIST
from thinet.models import build
from thinet.models.weights import load_weights
from thinet.run.state import STATE, RunState
from thinet.widths.ratio import read_ratio

VGG = "thinet.models.small_vgg.vgg_small"
ARGUMENTS = {"widths": [4, 8], "num_classes": 3, "image_size": 16}


class Evil:
    """What runs a command when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.system, (f"touch {self.mark}",)


@pytest.fixture
def mark(tmp_path):
    """A file that exists once hostile code has run."""
    yield tmp_path / "ran"
    assert not (tmp_path / "ran").exists(), "hostile code has run"


@pytest.fixture
def network():
    return build(VGG, **ARGUMENTS)


@pytest.fixture
def saved(network, tmp_path):
    return thinet.save(
        network, tmp_path / "model", Spec(builder={"target": VGG, "arguments": ARGUMENTS})
    )


def change(folder, **changes):
    path = folder / "spec.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


# -- specs


@pytest.mark.parametrize(
    ("target", "arguments", "words"),
    [
        ("torchvision.models.detection.fasterrcnn_resnet50_fpn", {}, "network builder"),
        ("torchvision.models.get_model", {"name": "resnet18"}, "network builder"),
        ("torchvision.models.vgg.torch.os.system", {}, "network builder"),
        ("thinet.models.vgg.torchvision.models.vgg16", {}, "network builder"),
        ("os.system", {"command": "id"}, "network builder"),
        ("torchvision.models.resnet18", {"weights": "DEFAULT"}, "fetches nothing"),
        ("torchvision.models.resnet18", {"pretrained": True}, "fetches nothing"),
        (VGG, {"num_classes": 10**12}, "nothing a network is built with"),
        (VGG, {"num_classes": -1}, "nothing a network is built with"),
        (VGG, {"num_classes": float("nan")}, "nothing a network is built with"),
        (VGG, {"num_classes": True}, "nothing a network is built with"),
        (VGG, {"image_size": 10**9}, "nothing a network is built with"),
        (VGG, {"widths": [8] * 10**6}, "nothing a network is built with"),
        (VGG, {"widths": [10**9]}, "nothing a network is built with"),
        (VGG, {"widths": [-4]}, "cannot be built|pools"),
        (VGG, {"widths": {"a": 1}}, "nothing a network is built with"),
        (VGG, {"widths": "ab"}, "cannot be built"),
        (VGG, {"num_classes": 2**20, "widths": [2**20] * 4}, "another architecture"),
        ("thinet.models.cifar_resnet.CifarResNet", {"blocks": 10**9}, "nothing a network"),
        ("thinet.models.cifar_resnet.CifarResNet", {"blocks": 2**20}, "far more layers"),
        ("thinet.models.timm_net.timm_net", {"architecture": "hf-hub:evil/net"}, "called"),
        ("thinet.models.timm_net.timm_net", {"architecture": "local-dir:/tmp"}, "called"),
        ("thinet.models.torchvision_net.torchvision_net", {"architecture": "../x"}, "called"),
    ],
    ids=lambda value: str(value)[:50],
)
def test_a_builder_is_called_only_as_one_is(target, arguments, words, saved):
    if "timm" in target:
        pytest.importorskip("timm")
    base = {key: ARGUMENTS[key] for key in ("num_classes", "image_size")}
    base = {} if target.startswith(("os", "torchvision")) else base
    if "CifarResNet" in target:
        base.pop("image_size")
    change(saved, builder={"target": target, "arguments": {**base, **arguments}})
    with pytest.raises(ThinetError, match=words):
        load(saved)


@pytest.mark.parametrize(
    "changes",
    [
        {"keep": {"features.0": [-1]}}, {"keep": {"features.0": [0, 0]}},
        {"keep": {"features.0": [10**12]}}, {"keep": {"features.0": "ab"}}, {"keep": [1]},
        {"keep": {"features.0": [0.5]}}, {"widths": {"a": -1}}, {"widths": {"a": float("nan")}},
        {"widths": []}, {"input_shape": [3, -1, 5]}, {"input_shape": [10**15] * 3},
        {"input_shape": "abc"}, {"mean": ["a"]}, {"std": [float("inf")]}, {"classes": [1]},
        {"classes": "abc"}, {"metrics": 3}, {"format": "1"}, {"format": 0}, {"builder": []},
        {"builder": {"target": VGG}}, {"builder": {"target": 3, "arguments": {}}}, {"more": 1},
        {"builder": {"target": VGG, "arguments": {}, "more": 1}},
    ],
    ids=str,
)  # fmt: skip
def test_values_that_a_spec_cannot_have(changes, saved):
    change(saved, **changes)
    with pytest.raises(ThinetError, match="is not a thinet spec"):
        read_spec(saved)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"[" * 10**6, "nested too deeply"),
        (b'{"format": 1' + b"0" * 10**5 + b"}", "cannot be read as JSON|newer"),
        (b"\xff\xfe{}", "cannot be read as JSON"),
        (b"[1]", "not a thinet spec"),
        (b"null", "not a thinet spec"),
        (b" " * (2**24 + 1), "more than the"),
    ],
    ids=["deep", "digits", "bytes", "list", "null", "large"],
)
def test_a_spec_that_is_no_spec(content, words, saved):
    (saved / "spec.json").write_bytes(content)
    with pytest.raises(ThinetError, match=words):
        load(saved)


@pytest.mark.parametrize("name", ["spec.json", "model.safetensors"])
@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "loop"])
def test_something_else_in_place_of_a_file(name, kind, saved):
    path = saved / name
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero" if kind == "device" else path)
    with pytest.raises(ThinetError, match=r"regular file|cannot be read|damaged|holds no"):
        load(saved)


# -- weights


def header_only(header, length=None, rest=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + rest


@pytest.mark.parametrize(
    "content",
    [
        b"", b"1234", header_only({}, length=2**63), header_only({}, length=2**30),
        header_only(b"[" * 10**5), header_only(b"\xff" * 10), header_only([1]),
        header_only({"a": {"dtype": "F32", "shape": [10**9, 10**9], "data_offsets": [0, 4]}},
                    rest=b"0000"),
        header_only({"a": {"dtype": "F32", "shape": [-1, -1], "data_offsets": [0, 4]}},
                    rest=b"0000"),
        header_only({"a": {"dtype": "F32", "shape": [2**62, 4], "data_offsets": [0, 0]}}),
        header_only({"a": {"dtype": "X", "shape": [1], "data_offsets": [0, 4]}}, rest=b"0000"),
        header_only({"a": {"dtype": "C64", "shape": [1], "data_offsets": [0, 8]}}, rest=b"0" * 8),
        header_only({"a" * 1000: {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}, rest=b"0"),
        header_only({"a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}, rest=b"0" * 99),
    ],
)  # fmt: skip
def test_weights_that_do_not_fill_their_header(content, saved, network):
    (saved / "model.safetensors").write_bytes(content)
    for work in (lambda: load(saved), lambda: load(saved, network)):
        with pytest.raises(ThinetError, match="damaged or not a safetensors file"):
            work()
    with pytest.raises(ThinetError, match=r"damaged or holds no weights|not a safetensors file"):
        load_weights(network, str(saved / "model.safetensors"))


@pytest.mark.parametrize("kind", ["integers", "empty", "wider", "axes", "renamed", "missing"])
def test_weights_that_are_not_the_networks(kind, saved, network):
    state = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    weight = state["features.0.weight"]
    state["features.0.weight"] = {
        "integers": weight.long(), "empty": weight[:0], "wider": weight.repeat(9, 1, 1, 1),
        "axes": weight.flatten(1),
    }.get(kind, weight)  # fmt: skip
    if kind in ("renamed", "missing"):
        state.pop("features.0.weight")
    if kind == "renamed":
        state["../../x"] = weight
    save_file(state, saved / "model.safetensors")
    for work in (lambda: load(saved), lambda: load(saved, network)):
        with pytest.raises(ThinetError, match="of another architecture"):
            work()


def test_nothing_is_taken_for_a_network_that_the_file_does_not_hold(saved, monkeypatch):
    """VGG-16 has 138 million weights; the file beside its name has a thousand."""
    arguments = {"num_classes": 1000, "image_size": 224}
    change(saved, builder={"target": "thinet.models.vgg.vgg16", "arguments": arguments})
    made = []
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *a, **k: made.append(empty(*a, **k)) or made[-1])
    with pytest.raises(ThinetError, match="of another architecture"):
        load(saved)
    assert made
    assert all(tensor.is_meta for tensor in made)


PICKLES = [".pth", ".pt", ".ckpt"]


@pytest.mark.parametrize("suffix", PICKLES)
@pytest.mark.parametrize("old", [True, False], ids=["old format", "zip"])
def test_a_pickle_of_a_command_is_refused(suffix, old, tmp_path, mark, network):
    path = tmp_path / f"weights{suffix}"
    for content in (Evil(mark), {"state_dict": Evil(mark)}, OrderedDict(a=Evil(mark))):
        torch.save(content, path, _use_new_zipfile_serialization=not old)
        with pytest.raises(ThinetError, match="may run code when they are loaded"):
            load_weights(network, str(path))
    path.write_bytes(pickle.dumps(Evil(mark)))
    with pytest.raises(ThinetError, match="damaged or holds no weights"):
        load_weights(network, str(path))


def test_a_pickle_named_safetensors_is_refused(saved, mark, network):
    (saved / "model.safetensors").write_bytes(pickle.dumps(Evil(mark)))
    with pytest.raises(ThinetError, match="damaged or not a safetensors file"):
        load(saved)
    torch.save(Evil(mark), saved / "model.safetensors")
    with pytest.raises(ThinetError, match=r"not a safetensors file|damaged"):
        load_weights(network, str(saved / "model.safetensors"))


def test_weights_that_unpack_to_more_are_refused(tmp_path, network):
    torch.save({"a": torch.zeros(10**6)}, tmp_path / "w.pth")
    with (
        zipfile.ZipFile(tmp_path / "w.pth") as old,
        zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for name in old.namelist():
            new.writestr(name, old.read(name))
    assert (tmp_path / "bomb.pth").stat().st_size < 10**5
    with pytest.raises(ThinetError, match="it is compressed"):
        load_weights(network, str(tmp_path / "bomb.pth"))


@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(1).expand(10**9), torch.zeros(3, dtype=torch.complex64),
        torch.zeros(3).to_sparse(), torch.empty(3, device="meta"),
    ],
    ids=["expanded", "complex", "sparse", "meta"],
)  # fmt: skip
def test_tensors_that_are_not_plain_numbers_are_refused(tensor, tmp_path, network):
    torch.save({"a": tensor}, tmp_path / "w.pth")
    with pytest.raises(ThinetError, match="holds no state dict"):
        load_weights(network, str(tmp_path / "w.pth"))


# -- what runs leave


@pytest.mark.parametrize(
    "content",
    ["[]", "{}", '{"fingerprint": 1}', '{"fingerprint": "x", "stages": 3}', '{"a": 1}', "[" * 10**5,
     '{"fingerprint": "x", "run_id": "../../x"}', '{"fingerprint": "x", "step": "1"}', "\x00"],
    ids=lambda text: text[:30],
)  # fmt: skip
def test_a_strangers_state(content, tmp_path):
    (tmp_path / STATE).write_text(content)
    with pytest.raises(ThinetError, match=r"state\.json"):
        RunState.load(tmp_path, "x")


@pytest.mark.parametrize(
    "content",
    [{}, {"format": 1, "baseline": {}}, {"format": 1, "baseline": {"top1": "<b>"}, "slim": [1]},
     {"format": 1, "baseline": {"top1": 1, "flops": "x"}, "slim": {"top1": []}, "stages": 1}],
    ids=str,
)  # fmt: skip
def test_a_strangers_result_is_reported_or_refused(content, tmp_path, capsys):
    (tmp_path / "result.json").write_text(json.dumps(content))
    assert main(["report", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert len(error.strip().splitlines()) == 1


def test_json_from_a_pipe_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "result.json")
    with pytest.raises(ThinetError, match="not a regular file"):
        read_json(tmp_path / "result.json")


# -- ratios


def test_ratios_from_something_that_never_ends(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in ("/dev/zero", tmp_path / "pipe"):
        with pytest.raises(ThinetError, match="not a regular file"):
            read_ratio(f"@{path}")
    (tmp_path / "large").write_text("a: 0.5\n" * 10**6)
    with pytest.raises(ThinetError, match="more than the 1048576"):
        read_ratio(f"@{tmp_path / 'large'}")


def test_ratios_that_multiply_themselves(tmp_path):
    lines = ["a0: &a0 [1,1,1,1,1,1,1,1,1,1]"]
    lines += [f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    (tmp_path / "bomb.yaml").write_text("\n".join(lines))
    with pytest.raises(ThinetError, match=r"ratio=\.\.\. for 'a0' is not a number"):
        read_ratio(f"@{tmp_path / 'bomb.yaml'}")
    (tmp_path / "deep.json").write_text("[" * 10**5)
    with pytest.raises(ThinetError, match="cannot be read"):
        read_ratio(f"@{tmp_path / 'deep.json'}")
    (tmp_path / "evil.yaml").write_text("a: !!python/object/apply:os.system [id]")
    with pytest.raises(ThinetError, match="cannot be read"):
        read_ratio(f"@{tmp_path / 'evil.yaml'}")


# -- archives and data


def tar_with(path: Path, name: str, kind: bytes, link: str = "") -> None:
    with tarfile.open(path, "w:gz") as archive:
        entry = tarfile.TarInfo(name)
        entry.type, entry.linkname, entry.size = kind, link, 0
        data = b"evil" if kind == tarfile.REGTYPE else b""
        entry.size = len(data)
        archive.addfile(entry, io.BytesIO(data))


def a_data_set(tmp_path, archive, monkeypatch):
    """CIFAR-10 whose published archive is the hostile one: its checksum is the right one."""
    theirs = torchvision.datasets.CIFAR10
    root = tmp_path / "inside" / "data"
    root.mkdir(parents=True)
    data = archive.read_bytes()
    (root / theirs.filename).write_bytes(data)
    monkeypatch.setattr(theirs, "tgz_md5", hashlib.md5(data).hexdigest())
    return CIFAR10(
        root=str(root), download=True, batch_size=2, num_workers=0, seed=0, image_size=32
    )


@pytest.mark.parametrize(
    ("name", "kind", "link"),
    [
        ("../../escaped", tarfile.REGTYPE, ""),
        ("/absolute", tarfile.REGTYPE, ""),
        ("link", tarfile.SYMTYPE, "/etc/passwd"),
        ("link", tarfile.SYMTYPE, "../../.."),
        ("hard", tarfile.LNKTYPE, "/etc/passwd"),
        ("device", tarfile.CHRTYPE, ""),
        ("pipe", tarfile.FIFOTYPE, ""),
    ],
    ids=str,
)
def test_an_archive_stays_in_its_folder(name, kind, link, tmp_path, monkeypatch):
    name = f"{tmp_path}/escaped" if name == "/absolute" else name
    tar_with(tmp_path / "evil.tar.gz", name, kind, link)
    data = a_data_set(tmp_path, tmp_path / "evil.tar.gz", monkeypatch)
    with pytest.raises(ThinetError, match=r"CIFAR-10 could not be downloaded .*: put its files"):
        data.prepare_data()
    found = {path.name for path in tmp_path.rglob("*")}
    assert found == {"evil.tar.gz", "inside", "data", "cifar-10-python.tar.gz"}


@pytest.mark.parametrize("kind", [CIFAR10, CIFAR100, MNIST, FashionMNIST])
def test_batches_that_are_hostile_pickles_are_never_opened(kind, tmp_path, mark):
    data = kind(root=str(tmp_path), batch_size=2, num_workers=0, seed=0, image_size=32)
    for file in data.files():
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_bytes(pickle.dumps(Evil(mark)))
    for left in ("training.pt", "test.pt"):  # by torchvision's old versions
        (tmp_path / kind.__name__ / "processed").mkdir(parents=True, exist_ok=True)
        (tmp_path / kind.__name__ / "processed" / left).write_bytes(pickle.dumps(Evil(mark)))
    with pytest.raises(ThinetError, match=rf"{data.title} in dataset\.root=.* is damaged"):
        data.load_parts()


@pytest.mark.parametrize(
    "name",
    [b"a\nb", b"a\x1b[2Jb", b"\xff\xfe", "a\u202eb".encode(), "a\u2028b".encode(), b"a\x7fb"],
    ids=repr,
)
def test_class_folders_that_cannot_be_printed(name, tmp_path):
    os.makedirs(os.fsencode(tmp_path) + b"/" + name)
    with pytest.raises(ThinetError, match="has a character in its name") as caught:
        class_folders(tmp_path)
    assert str(caught.value).isprintable()


def test_class_folders_with_odd_names_are_names_like_others(tmp_path):
    odd = [
        "<script>alert(1)<script>", "_target_", "${oc.env:HOME}", "--help", "'; rm -rf x",
        "{{7*7}}", "日本語", "naïve café", "👩‍🔬", "a" * 255,
    ]  # fmt: skip
    for name in odd:
        (tmp_path / name).mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / name / "1.png")
    assert class_folders(tmp_path) == sorted(odd)


def test_errors_do_not_steer_the_terminal():
    assert str(ThinetError("file \x1b[2J\x07x \udcff")) == "file \\x1b[2J\\x07x \\udcff"
    assert str(ThinetError("naïve\nline")) == "naïve\nline"
