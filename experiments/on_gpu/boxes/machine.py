"""What machine is this?"""

from __future__ import annotations

import platform
import subprocess

import torch
import torchvision

from experiments.on_gpu.context import Context
from experiments.timing import Row, default_threads, hardware
from thinet.run.environment import environment


def machine(context: Context) -> None:
    """One row: card, versions, defaults. Fails where there is no GPU (unless all is tiny)."""
    row: Row = {
        "device": hardware(context.device, torch.get_num_threads()),
        "smoke": context.smoke,
        "cores": default_threads(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version() if torch.backends.cudnn.is_available() else None,
        "float32_convolutions": torch.backends.cudnn.conv.fp32_precision,
        "float32_products": torch.backends.cuda.matmul.fp32_precision,
        "python": platform.python_version(),
    }
    found = environment()
    row |= {key: found[key] for key in ("commit", "pytorch-lightning", "thinet")}
    if context.device.type == "cuda":
        product = torch.ones(8, 8, device=context.device) @ torch.ones(8, 8, device=context.device)
        assert float(product.sum()) == 512
        facts = torch.cuda.get_device_properties(context.device)
        row |= {"memory_gib": round(facts.total_memory / 2**30, 1)}
        row |= {"capability": f"{facts.major}.{facts.minor}", "driver": _driver()}
    context.keep(row)


def _driver() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return done.stdout.strip().splitlines()[0]
