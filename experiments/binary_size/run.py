"""How large is a binary network on disk, where do its bytes go, and does it come back?

Usage: python -m experiments.binary_size.run [--only vgg16_gap/10 resnet18/1000]
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import thinet
from experiments.smoke import parse
from thinet.artifacts.export import export
from thinet.artifacts.names import WEIGHTS
from thinet.artifacts.openvino.package import openvino
from thinet.artifacts.spec import Builder, Spec
from thinet.base.safetensors_header import read_header
from thinet.metrics.memory import forget_peak, resident_peak_mb
from thinet.models import build
from thinet.quantization.convert import binarized, conversion_transform
from thinet.quantization.packed import PACKED, packed, packed_layers
from thinet.quantization.planning import plan_conversion
from thinet.quantization.settings import Quantizer
from thinet.report.style import BLUE, FAINT, GREEN, SKY, VERMILLION, new_figure, save_png

HERE = Path(__file__).parent
NETWORKS = (
    "vgg.vgg16_gap/10", "vgg.vgg16_gap/200", "vgg.vgg16_gap/1000", "resnet.resnet18/1000",
    "resnet.resnet50/1000",
)  # fmt: skip
KINDS = ("bits", "factors", "batchnorm", "float_layers", "rest")


def images_of(size: int, batch: int = 2) -> Tensor:
    """Random ones, the same in every process."""
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def measure(network: str, size: int, folder: Path) -> dict[str, Any]:
    """Save a network in full precision and packed, and load both in fresh processes."""
    name, classes = network.split("/")
    builder = Builder(f"thinet.models.{name}", {"num_classes": int(classes), "image_size": size})
    torch.manual_seed(0)
    made, images = build(builder.target, **builder.arguments), images_of(size)
    made.train()(images)
    spec = Spec(builder, input_shape=(3, size, size))
    full = thinet.save(made.eval(), folder / "full", spec)
    torch.save(made(images), full / "outputs.pt")
    transform = conversion_transform(plan_conversion(made, images), Quantizer(order=2))
    binarized(made, **transform.arguments).train()(images)
    packed(made.eval())
    spec = Spec(builder, transforms=(transform, PACKED), input_shape=(3, size, size))
    slim = thinet.save(made, folder / "packed", spec)
    torch.save(made(images), slim / "outputs.pt")
    before, after = fresh(full, size), fresh(slim, size)
    for one in (full, slim):
        export(one, "openvino")
    run_full, run_slim = (fresh(one, size, "--deployed") for one in (full, slim))
    bytes_full, bytes_packed = ((one / WEIGHTS).stat().st_size for one in (full, slim))
    return {
        "network": name.partition(".")[2],
        "classes": int(classes),
        "binary_layers": len(packed_layers(made)),
        "fp32_bytes": bytes_full,
        "packed_bytes": bytes_packed,
        "factor": round(bytes_full / bytes_packed, 2),
        **{f"{kind}_bytes": size for kind, size in parts(made, slim / WEIGHTS).items()},
        "equal_in_fresh_process": before["equal"] and after["equal"],
        **{f"fp32_{key}": before[key] for key in ("load_peak_mb", "run_peak_mb")},
        **{f"packed_{key}": after[key] for key in ("load_peak_mb", "run_peak_mb")},
        "openvino_fp32_peak_mb": run_full["peak_mb"],
        "openvino_packed_peak_mb": run_slim["peak_mb"],
    }


def parts(network: nn.Module, file: Path) -> dict[str, int]:
    """Bytes of a packed network by kind; what is left are names, and orders of layers."""
    found = dict.fromkeys(KINDS, 0)
    modules = dict(network.named_modules())
    for name, entry in read_header(file).items():
        path, _, tensor = name.rpartition(".")
        size = torch.Size(entry.shape).numel() * entry.dtype.itemsize
        owner = modules[path]
        if isinstance(owner, nn.modules.batchnorm._BatchNorm):
            kind = "batchnorm"
        elif isinstance(owner, (nn.Conv2d, nn.Linear)):
            kind = "float_layers"
        else:
            kind = {"bits": "bits", "scales": "factors"}.get(tensor, "rest")
        found[kind] += size
    found["rest"] += file.stat().st_size - sum(found.values())
    return found


def fresh(folder: Path, size: int, how: str = "--inside") -> dict[str, Any]:
    """What a process of its own finds."""
    words = [sys.executable, "-m", "experiments.binary_size.run", how, str(folder)]
    done = subprocess.run(
        [*words, "--size", str(size)], capture_output=True, text=True, check=True,
        cwd=HERE.parents[1],
    )  # fmt: skip
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@torch.no_grad()
def inside(folder: Path, size: int) -> None:
    """Load a network, compare its outputs, and print the peaks above what importing takes."""
    images, wanted = images_of(size), torch.load(folder / "outputs.pt")
    torch.nn.functional.conv2d(torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 3, 3))  # libraries
    forget_peak()
    start = resident_peak_mb() or 0.0
    network = thinet.load(folder)
    load = (resident_peak_mb() or 0.0) - start
    forget_peak()
    network(images[:1])
    run = (resident_peak_mb() or 0.0) - start
    found = {"equal": torch.equal(network(images), wanted)}
    print(json.dumps({**found, "load_peak_mb": round(load, 1), "run_peak_mb": round(run, 1)}))


@torch.no_grad()
def deployed(folder: Path, size: int) -> None:
    """Deploy a network, run one image, and print the peak above what importing takes."""
    openvino()
    forget_peak()
    start = resident_peak_mb() or 0.0
    thinet.deploy(folder, threads=1)(images_of(size)[:1])
    print(json.dumps({"peak_mb": round((resident_peak_mb() or 0.0) - start, 1)}))


def draw(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Bytes of the packed networks, stacked by kind."""
    title = "Where the bytes of a packed binary network are"
    figure, (axes,) = new_figure(
        7.2, 0.5 * len(rows) + 2, title, "MB on disk, and how many times smaller than float32"
    )
    labels = [f"{row['network']}, {row['classes']} classes: {row['factor']}x" for row in rows]
    left = [0.0] * len(rows)
    colors = (BLUE, GREEN, SKY, VERMILLION, FAINT)
    for kind, color in zip(KINDS, colors, strict=True):
        sizes = [int(row[f"{kind}_bytes"]) / 1e6 for row in rows]
        axes.barh(labels, sizes, left=left, color=color, label=kind.replace("_", " "))
        left = [one + more for one, more in zip(left, sizes, strict=True)]
    axes.invert_yaxis()
    axes.set_xlabel("MB")
    axes.legend(frameon=False)
    save_png(figure, path)


def main(words: Sequence[str] | None = None) -> None:
    """Run the study."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", default=NETWORKS)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--out", type=Path, default=HERE)
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--deployed", type=Path, help=argparse.SUPPRESS)
    options = parse(parser, words, only=["resnet.resnet18/10"], size=32)
    if options.inside:
        inside(options.inside, options.size)
        return
    if options.deployed:
        deployed(options.deployed, options.size)
        return
    rows = []
    for network in options.only:
        with tempfile.TemporaryDirectory() as folder:
            rows.append(measure(network, options.size, Path(folder)))
        print(rows[-1], flush=True)
    options.out.mkdir(parents=True, exist_ok=True)
    with (options.out / "results.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    draw(rows, options.out / "figure.png")


if __name__ == "__main__":
    main()
