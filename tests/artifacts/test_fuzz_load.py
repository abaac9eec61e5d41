"""``thinet.load`` on folders of strangers: a network or one sentence, quickly and in little memory.

The examples run in a process of their own with a limit on its memory; ``python
tests/test_fuzz_load.py 5000`` runs as many as one likes.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[2]
EXAMPLES = 150
SECONDS = 20  # for one example; builders of timm are imported in the first
MEGABYTES = 3000  # above what importing takes; the honest networks have a few kilobytes


def test_no_example_crashes_hangs_or_fills_the_memory():
    from tests import warm  # not there where this is a script

    done = warm.run(
        [sys.executable, __file__, str(EXAMPLES)], capture_output=True, text=True, cwd=ROOT,
        timeout=500, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    outcome = json.loads(done.stdout.splitlines()[-1])
    assert sum(outcome["outcomes"].values()) >= EXAMPLES
    assert outcome["outcomes"].get("loaded", 0) > 0, "some examples have to be whole"
    assert outcome["outcomes"].get("refused", 0) > EXAMPLES // 2


# -- what runs in the process of its own


def limit_memory() -> None:
    import resource

    import torch  # noqa: F401  what it maps is not counted

    import thinet  # noqa: F401

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + MEGABYTES * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def honest() -> list[tuple[dict, bytes]]:
    """Whole folders, of which the examples are variations."""
    import torch

    import thinet
    from thinet.artifacts.store import Spec
    from thinet.models import build

    found = []
    for target, arguments in (
        ("thinet.models.small_vgg.vgg_small", {"widths": [4, 8]}),
        ("thinet.models.cifar_resnet.resnet20", {}),
    ):
        arguments = {**arguments, "num_classes": 3, "image_size": 32}
        torch.manual_seed(0)
        network = build(target, **arguments)
        images = [torch.randn(2, 3, 32, 32)]
        slim = thinet.prune(network, images, criterion="weight_sum", reconstruction="none")
        builder = {"target": target, "arguments": arguments}
        with tempfile.TemporaryDirectory() as folder:
            thinet.save(slim, folder, Spec(builder=builder, classes=("a", "b", "c")))
            spec = json.loads((Path(folder) / "spec.json").read_text())
            found.append((spec, (Path(folder) / "model.safetensors").read_bytes()))
    return found


def strategies():
    from hypothesis import strategies as st

    targets = st.sampled_from(
        ["thinet.models.small_vgg.vgg_small", "thinet.models.vgg.vgg16", "thinet.models.vgg.VggGap",
         "thinet.models.cifar_resnet.resnet20", "thinet.models.cifar_resnet.CifarResNet",
         "thinet.models.cifar_resnet.Block", "thinet.models.vgg.initialise_", "thinet.models.build",
         "thinet.models.resnet.resnet101", "thinet.models.vgg.vgg16_gap", "thinet.load",
         "thinet.models.timm_net.timm_net", "thinet.models.torchvision_net.torchvision_net",
         "torchvision.models.resnet18", "torchvision.models.get_model", "torchvision.models.VGG",
         "torchvision.models.detection.fasterrcnn_resnet50_fpn", "torchvision.models.vit_b_16",
         "torchvision.models.swin_t", "torchvision.models.densenet.DenseNet", "os.system", "", "."]
    )  # fmt: skip
    names = st.sampled_from(
        ["resnet18", "vit_b_16", "swin_t", "beit_base_patch16_224", "hf-hub:x/y", "local-dir:/etc",
         "hf_hub:x", "../x", "maxvit_t", "inception_v3", "resnet10t", "DEFAULT", "x" * 1000, ""]
    )  # fmt: skip
    numbers = st.sampled_from([0, 1, -1, 2, 3, 16, 33, 1000, 4096, 2**20, 2**31, 10**9, 10**12,
                               10**400, True, False, 0.5, -0.5, 1e300])  # fmt: skip
    lists = st.lists(numbers, max_size=5) | st.sampled_from([[1] * 10**6, [2] * 1000, [2**20] * 9])
    leaves = st.none() | numbers | st.floats() | st.text(max_size=20) | names | lists
    values = st.recursive(
        leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner),
        max_leaves=6,
    )  # fmt: skip
    keys = st.sampled_from(
        ["num_classes", "image_size", "widths", "blocks", "architecture", "weights", "width",
         "pretrained", "layers", "depth", "num_layers", "growth_rate", "block_config", "dropout",
         "width_in", "stride", "features", "init_weights", "aux_logits", "hidden_dim"]
    )  # fmt: skip
    changes = st.dictionaries(
        st.sampled_from(["builder", "keep", "widths", "input_shape", "mean", "std", "classes",
                         "metrics", "format", "transforms", "lineage", "kinds", "other"]),
        values, max_size=2,
    )  # fmt: skip
    return {
        "kind": st.sampled_from(["builder", "builder", "spec", "weights", "weights", "all"]),
        "which": st.integers(0, 1),
        "target": st.none() | targets,
        "architecture": names,
        "arguments": st.dictionaries(keys, values | numbers | names, max_size=3),
        "drop": st.lists(keys, max_size=1),
        "changes": st.just({}) | changes,
        "text": st.none() | st.binary(max_size=40) | st.sampled_from([b"[" * 10**5, b"1" * 10**5]),
        "cut": st.none() | st.integers(0, 4000),
        "flips": st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 255)), max_size=4),
        "header": st.none() | st.tuples(
            st.sampled_from(["shape", "dtype", "data_offsets", "rename", "drop", "add", "length"]),
            st.integers(0, 20), values | st.sampled_from(["C64", "I64", "F16", "BOOL", "F8_E4M3"]),
        ),
    }  # fmt: skip


def weights_of(data: bytes, draw: dict) -> bytes:
    import struct

    length = int.from_bytes(data[:8], "little")
    header, rest = json.loads(data[8 : 8 + length]), data[8 + length :]
    if draw["header"] is not None:
        what, place, value = draw["header"]
        names = [name for name in header if name != "__metadata__"]
        name = names[place % len(names)]
        if what == "drop":
            del header[name]
        elif what in ("rename", "add"):
            header[f"{value}"[:2000]] = header[name] if what == "add" else header.pop(name)
        elif what != "length":
            header[name][what] = value
    text = json.dumps(header, default=str).encode()
    size = len(text)
    if draw["header"] is not None and draw["header"][0] == "length":
        size = [2**63, 2**32, 0, 1, len(rest) + size][draw["header"][1] % 5]
    changed = bytearray(struct.pack("<Q", size) + text + rest)
    for place, value in draw["flips"]:
        changed[place % len(changed)] = value
    return bytes(changed[: draw["cut"]] if draw["cut"] is not None else changed)


def main(examples: int, seed: int) -> None:
    import torch
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis import seed as seeded

    limit_memory()
    import thinet
    from thinet.base.errors import ThinetError

    torch.set_num_threads(1)
    whole = honest()
    outcomes: Counter[str] = Counter()
    slowest = [0.0, ""]

    @seeded(seed)
    @settings(max_examples=examples, deadline=None, database=None, phases=[Phase.generate],
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(**strategies())
    def one(**draw: object) -> None:
        spec, data = whole[draw["which"]]
        builder = {**spec["builder"], "arguments": {**spec["builder"]["arguments"]}}
        kind = draw["kind"]
        if kind in ("builder", "all"):
            builder["target"] = draw["target"] or builder["target"]
            builder["arguments"] |= draw["arguments"]
            for key in draw["drop"]:
                builder["arguments"].pop(key, None)
            if builder["target"].endswith("_net") and "architecture" not in draw["arguments"]:
                builder["arguments"]["architecture"] = draw["architecture"]
                builder["arguments"].pop("widths", None)
        changes = draw["changes"] if kind in ("spec", "all") else {}
        text = json.dumps({**spec, "builder": builder, **changes}).encode()
        if draw["text"] and kind == "spec":
            text = draw["text"]
        if kind in ("weights", "all"):
            data = weights_of(data, draw)
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "spec.json").write_bytes(text)
            (Path(folder) / "model.safetensors").write_bytes(data)
            before, sentence = time.monotonic(), ""
            try:
                network = thinet.load(folder)
                outcomes["loaded"] += 1
                assert not any(tensor.is_meta for tensor in network.state_dict().values())
            except ThinetError as error:
                outcomes["refused"] += 1
                sentence = str(error)
            taken = time.monotonic() - before
        assert len(sentence) < 2500, sentence[:500]
        assert "\n" not in sentence, sentence[:500]
        if taken > slowest[0]:
            slowest[:] = [taken, text[:300].decode(errors="replace")]
        assert taken < SECONDS, (taken, text[:500])

    one()
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"outcomes": outcomes, "slowest": slowest, "peak_mb": peak}))


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0)
