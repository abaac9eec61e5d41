from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from experiments import cifar
from experiments.cifar import Images
from experiments.criteria_cifar10 import run as criteria
from experiments.peers import run as peers
from experiments.peers.peer import IMPORTANCES, prune_with_peer
from experiments.reconstruction_ingredients import run as ingredients
from thinet.metrics import cost
from thinet.models.cifar_resnet import CifarResNet
from thinet.models.small_vgg import vgg_small


def noise(count: int, seed: int = 0) -> Images:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (count, 3, 32, 32), generator=generator, dtype=torch.uint8)
    return Images(pixels, torch.randint(0, 10, (count,), generator=generator))


@pytest.fixture
def data() -> cifar.Data:
    return cifar.split(noise(60), noise(20, seed=1), validation=20)


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(0)
    made = CifarResNet(1, 10).eval()
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
    return made


def test_a_part_is_read_in_the_order_of_classes(tmp_path: Path) -> None:
    for label, name in enumerate(("ant", "bee")):
        (tmp_path / name).mkdir()
        for k in range(2):
            colour = (100 * label + 10 * k, 5, 7)
            Image.new("RGB", (4, 6), colour).save(tmp_path / name / f"{k}.png")
    images = cifar.read_part(tmp_path)
    assert images.pixels.shape == (4, 3, 6, 4)
    assert images.pixels.dtype == torch.uint8
    assert images.pixels[:, 0, 2, 3].tolist() == [0, 10, 100, 110]
    assert images.labels.tolist() == [0, 0, 1, 1]


def test_parts_do_not_overlap(data: cifar.Data) -> None:
    whole = noise(60)
    seen = torch.cat([data.train.pixels, data.validation.pixels]).flatten(1)
    assert len(data.validation) == 20
    assert sorted(map(tuple, seen.tolist())) == sorted(map(tuple, whole.pixels.flatten(1).tolist()))


def test_more_calibration_images_are_the_same_and_more(data: cifar.Data) -> None:
    few, many = data.calibration(5, seed=3), data.calibration(12, seed=3)
    assert torch.equal(few.pixels, many.pixels[:5])
    assert not torch.equal(few.pixels, data.calibration(5, seed=4).pixels)


def test_normalise_is_torchvisions() -> None:
    from torchvision.transforms.v2.functional import normalize, to_dtype

    pixels = noise(2).pixels
    wanted = normalize(
        to_dtype(pixels, torch.float32, scale=True), [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    )
    torch.testing.assert_close(cifar.normalise(pixels), wanted)


def test_accuracy_counts(net: nn.Module, data: cifar.Data) -> None:
    with torch.no_grad():
        said = net(cifar.normalise(data.test.pixels)).argmax(dim=1)
    labels = torch.where(torch.arange(20) < 7, said, (said + 1) % 10)
    parts = cifar.Data(data.train, data.validation, Images(data.test.pixels, labels))
    assert cifar.accuracy(net, parts) == pytest.approx(35.0)
    other = cifar.Data(data.train, Images(data.test.pixels, said), data.test)
    assert cifar.accuracy(net, other, "val") == 100.0


def test_the_engine_is_given_shifted_and_mirrored_images(data: cifar.Data) -> None:
    pictures = cifar.Pictures(data, batch=8)
    pictures.setup()
    plain = torch.cat([images for images, _ in pictures.test_dataloader()])
    torch.testing.assert_close(plain, cifar.normalise(data.test.pixels).contiguous())
    found = torch.cat([images for images, _ in pictures.train_dataloader()])
    low = cifar.normalise(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))
    padded = low[:, :, :1, :1].expand(len(data.train), 3, 40, 40).clone()
    padded[:, :, 4:36, 4:36] = cifar.normalise(data.train.pixels)
    sources = torch.cat([padded, padded.flip(3)])
    # A pixel left of the middle tells which picture, which window and whether mirrored.
    windows = sources.unfold(2, 32, 1).unfold(3, 32, 1)[..., 16, 8].permute(0, 2, 3, 1)
    apart = (windows[None] - found[:, :, 16, 8][:, None, None, None]).abs().amax(-1)
    there = (apart < 1e-5).flatten(2)  # (found, source, window)
    mirrored = there[:, len(data.train) :].flatten(1).any(1)
    assert there.flatten(1).any(1).all()
    assert mirrored.any()
    assert not mirrored.all()
    assert len(set(there.any(1).nonzero()[:, 1].tolist())) > 10, "shifts differ"


def test_finetuning_learns_and_leaves_the_given_network(net: nn.Module, data: cifar.Data) -> None:
    before = {name: value.clone() for name, value in net.state_dict().items()}

    def loss(model: nn.Module) -> float:
        with torch.no_grad():
            logits = model.train()(cifar.normalise(data.train.pixels))
            return float(F.cross_entropy(logits, data.train.labels))

    made = cifar.finetune(net, data, epochs=8, per_epoch=16, seed=0, rate=0.05, batch=8)
    again = cifar.finetune(net, data, epochs=8, per_epoch=16, seed=0, rate=0.05, batch=8)
    other = cifar.finetune(net, data, epochs=8, per_epoch=16, seed=1, rate=0.05, batch=8)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    torch.testing.assert_close(made.linear.weight, again.linear.weight)
    assert not torch.equal(made.linear.weight, other.linear.weight)
    assert loss(made) < loss(net)


def test_a_study_asks_for_images(tmp_path: Path, capsys) -> None:
    for study in (peers, ingredients, criteria):
        with pytest.raises(SystemExit):
            study.main(["--out", str(tmp_path)])
        assert "--root <folder with train/ and test/>" in capsys.readouterr().err


def test_rows_come_back_and_are_recognised(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    row = {"model": "net", "ridge": 1e-4, "exact": False, "test": 81.234567}
    cifar.append_row(path, row)
    cifar.append_row(path, {**row, "ridge": 1e-5})
    rows = cifar.read_rows(path)
    assert [float(one["ridge"]) for one in rows] == [1e-4, 1e-5]
    assert cifar.has_row(rows, {"model": "net", "ridge": 1e-5, "exact": False})
    assert not cifar.has_row(rows, {"model": "net", "ridge": 1e-3, "exact": False})


def test_tables_replace_the_old_ones(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- tables -->\nold\n<!-- end of tables -->\nafter\n")
    cifar.splice(readme, "| a |\n")
    cifar.splice(readme, "| b |\n")
    wanted = "before\n<!-- tables -->\n\n| b |\n\n<!-- end of tables -->\nafter\n"
    assert readme.read_text() == wanted


def test_mean_and_spread() -> None:
    values = [80.0, 81.0, 83.0]
    assert cifar.mean_and_spread(values) == f"{np.mean(values):.2f} ± {math.sqrt(7 / 3):.2f}"
    assert cifar.mean_and_spread([80.0]) == "80.00"


@pytest.mark.parametrize("importance", list(IMPORTANCES))
def test_the_peer_halves_the_inner_layers_alone(net: nn.Module, importance: str) -> None:
    layers = peers.pruned_layers(net)
    assert layers == ["layer1.0.conv1", "layer2.0.conv1", "layer3.0.conv1"]
    slim = prune_with_peer(net, importance, layers, noise(8), seed=0)
    widths = {n: m.out_channels for n, m in slim.named_modules() if isinstance(m, nn.Conv2d)}
    whole = {n: m.out_channels for n, m in net.named_modules() if isinstance(m, nn.Conv2d)}
    assert widths == {n: w // 2 if n in layers else w for n, w in whole.items()}
    assert cost(slim, (3, 32, 32)).flops == peers.half_flops(net, layers)


def test_a_global_ranking_meets_the_flops(net: nn.Module) -> None:
    layers = peers.pruned_layers(net)
    half = peers.half_flops(net, layers)
    slim = prune_with_peer(net, "l1", layers, noise(8), seed=0, flops=half)
    one_filter = 2 * 2 * 9 * 16 * 32 * 32
    assert half - one_filter < cost(slim, (3, 32, 32)).flops <= half


def test_the_peers_taylor_is_the_gradients_of_the_mean_loss(net: nn.Module) -> None:
    images = noise(8)
    layers = peers.pruned_layers(net)
    slim = prune_with_peer(net, "taylor", layers, images, seed=0)
    copy = CifarResNet(1, 10).eval()
    copy.load_state_dict(net.state_dict())
    F.cross_entropy(copy(cifar.normalise(images.pixels)), images.labels).backward()
    conv, reader = copy.layer3[0].conv1, copy.layer3[0].conv2
    with torch.no_grad():
        score = (conv.weight * conv.weight.grad).abs().flatten(1).sum(1)
        score += (reader.weight * reader.weight.grad).abs().transpose(0, 1).flatten(1).sum(1)
    kept = score.argsort(descending=True)[:32].sort().values
    torch.testing.assert_close(slim.layer3[0].conv1.weight.detach(), conv.weight[kept].detach())


def test_vggs_inner_layers_are_all_their_convolutions() -> None:
    net = vgg_small(10, 32, widths=(4, 8)).eval()
    convs = [name for name, module in net.named_modules() if isinstance(module, nn.Conv2d)]
    assert peers.pruned_layers(net) == convs


def test_a_recipe_by_error_costs_no_more_than_halves(net: nn.Module, data: cifar.Data) -> None:
    recipe = ingredients.Recipe(
        "thinet", "refit", True, "original", positions=16, recalibrate="each",
        allocation="error", images=16,
    )  # fmt: skip
    found = ingredients.measure(net, "resnet8", data, recipe, seed=0)
    layers = peers.pruned_layers(net)
    half = peers.half_flops(net, layers) / 1e6
    assert 0.9 * half < float(str(found["mflops"])) <= half
    assert found["test_plain"] == found["test"]


def test_every_recipe_of_the_first_seed_comes_before_the_next_seed() -> None:
    todo = ingredients.work(["steps", "ridge"], [0, 1])
    seeds = [seed for _, seed in todo]
    assert seeds == sorted(seeds)
    assert len(todo) == len(set(todo))
    assert {recipe for recipe, seed in todo if seed == 1} == set(ingredients.STEPS.values())
