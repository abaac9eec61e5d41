"""VGG-16 and ResNet-50 at 224 px on generated images, and the ways to run them."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

import thinet
from experiments.on_gpu.boxes.commands import outcome, start, wait
from experiments.on_gpu.context import Context
from experiments.on_gpu.images import write_classes
from experiments.timing import Row
from thinet.models.cifar_resnet import resnet20
from thinet.models.resnet import resnet50
from thinet.surgery import difference

VGG, RESNET = "[features.0,features.7]", "[layer1.0.conv1,layer2.0.conv2]"
RUNS = (  # model, layers, precision
    ("vgg16", VGG, "32-true"),
    ("resnet50", RESNET, "32-true"),
    ("resnet50_v1", RESNET, "bf16-mixed"),
    ("vgg16", VGG, "bf16-mixed"),
    ("resnet50_v1", RESNET, "16-mixed"),
)
TINY = (("resnet20", "[layer1.0.conv1,layer2.0.conv1]", "bf16-mixed"),)


def runs(context: Context) -> None:
    """All runs at once, and in this process what has no option: layouts and the compiler."""
    root = context.work / "images"
    write_classes(root, *((4, 2, 32) if context.smoke else (40, 10, 256)))
    chosen = TINY if context.smoke else RUNS
    words = [
        "dataset=folder", f"dataset.root={root}", "schedule=layerwise", "ratio=0.5",
        "dataset.recipe.baseline_epochs=1", "dataset.recipe.baseline_warmup=0",
        "dataset.recipe.stage_epochs=1", "dataset.recipe.final_epochs=1",
        f"dataset.num_workers={0 if context.smoke else 2}", "dataset.calibration_per_class=2",
        f"dataset.recipe.batch_size={8 if context.smoke else 32}", "dataset.val_fraction=0.2",
        f"trainer.max_steps_per_epoch={1 if context.smoke else 3}",
    ]  # fmt: skip
    commands = {}
    for model, layers, precision in chosen:
        mine = [f"model={model}", f"layers={layers}", f"trainer.precision={precision}", *words]
        name = f"{model}_{precision}"
        commands[model, precision] = start(context, name, mine)
    context.cell({"model": "resnet50", "way": "channels_last"}, lambda: _layouts(context), 5)
    wait(context, list(commands.values()))
    for (model, precision), command in commands.items():
        row: Row = {"model": model, "way": "run.py", "precision": precision}
        context.keep({**row, "at_once": len(commands), **outcome(command)})
    # Last: a compiler may take all the time there is.
    context.cell({"model": "resnet20", "way": "torch.compile"}, lambda: _compiled(context), 20)


def _made(
    context: Context, build: Callable[..., nn.Module], size: int
) -> tuple[nn.Module, Tensor, Tensor]:
    """A network with random weights, images and labels, on the device."""
    torch.manual_seed(0)
    network = build(num_classes=4, image_size=size).to(context.device).eval()
    images = torch.randn(16, 3, size, size).to(context.device)
    return network, images, torch.arange(16, device=context.device) % 4


def _layouts(context: Context) -> Row:
    """A network that lies ``channels_last`` is cut like one that does not, and stays so."""
    build, size = (resnet20, 32) if context.smoke else (resnet50, 224)
    network, images, labels = _made(context, build, size)
    layers = ["layer1.0.conv1", "layer2.0.conv1"]
    last = copy.deepcopy(network).to(memory_format=torch.channels_last)
    lying = images.contiguous(memory_format=torch.channels_last)
    plain = thinet.prune(network, [(images, labels)], layers=layers)
    other = thinet.prune(last, [(lying, labels)], layers=layers)
    weights = [p for p in other.model.parameters() if p.dim() == 4 and min(p.shape[1:]) > 1]
    return {
        "stays": all(p.is_contiguous(memory_format=torch.channels_last) for p in weights),
        "same_filters": [one.kept for one in plain.layers] == [one.kept for one in other.layers],
        "difference": difference(plain.model, other.model, lying),
    }


def _compiled(context: Context) -> Row:
    """A slim network that is compiled gives what it gives otherwise, and its gradients exist."""
    network, images, labels = _made(context, resnet20, 32)
    slim = thinet.prune(network, [(images, labels)]).model
    made = torch.compile(slim, backend="eager" if context.smoke else "inductor", dynamic=False)
    with torch.no_grad():
        wanted = slim(images)
        far = float((made(images) - wanted).abs().max() / wanted.abs().max())
    made(images).float().square().mean().backward()
    gradients = [parameter.grad for parameter in slim.parameters()]
    return {"difference": far, "gradients": all(one is not None for one in gradients)}
