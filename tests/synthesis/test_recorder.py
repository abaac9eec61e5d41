"""What is drawn and shown at the end of each epoch."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import nn

from thinet.report.sections.synthesis.grid import GAP, LARGEST
from thinet.synthesis.generator import Generator
from thinet.synthesis.recorder import COLUMNS, SHOWN, Recorder
from thinet.synthesis.settings import Course, Synthesis

MEAN, DEVIATION = (0.5, 0.4, 0.3), (0.1, 0.2, 0.3)


def make_recorder(folder, **changes):
    torch.manual_seed(0)
    generator = Generator((3, 8, 8), latent=4, width=4)
    teacher = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 3))
    settings = Synthesis(course=Course(epochs=2, batch_size=4))
    return Recorder(generator, teacher, settings, 1, folder, folder / "pictures",
                    (MEAN, DEVIATION), 3, **changes)  # fmt: skip


def tile(path, place):
    """The pixels of one image of a picture, each once."""
    pixels = np.asarray(Image.open(path).convert("RGB"))
    side = 8 * LARGEST
    top, left = (GAP + one * (side + GAP) for one in divmod(place, COLUMNS))
    return pixels[top : top + side : LARGEST, left : left + side : LARGEST]


def test_each_epoch_is_a_picture_that_is_shown_and_the_last_has_the_classes(tmp_path):
    shown = []
    recorder = make_recorder(tmp_path, show=lambda path, step: shown.append((path.name, step)))
    recorder.note(0, {"step": 30.0, "train/loss": 1.0})
    assert [one.name for one in (tmp_path / "pictures").iterdir()] == ["epoch_001.png"]
    recorder.note(1, {"step": 60.0, "train/loss": 0.5})
    assert shown == [("epoch_001.png", 30), ("epoch_002.png", 60)]
    last = recorder.rows()[-1]
    assert last.figures == {"train/loss": 0.5}
    assert sum(last.classes) == SHOWN
    names = {path.name for path in (tmp_path / "pictures").glob("class_*.png")}
    assert names == {f"class_{k}.png" for k, count in enumerate(last.classes) if count}


def test_pixels_are_those_of_the_images_before_normalisation(tmp_path):
    recorder = make_recorder(tmp_path)
    recorder.note(0, {})
    images, seen = recorder._draw()
    mean, deviation = (torch.tensor(one)[:, None, None] for one in (MEAN, DEVIATION))
    for place in (0, 17, 63):
        wanted = (255 * (images[place] * deviation + mean)).round().clamp(0, 255).permute(1, 2, 0)
        found = tile(tmp_path / "pictures" / "epoch_001.png", place)
        assert np.abs(found.astype(int) - wanted.numpy()).max() <= 1
    recorder.note(1, {})
    number = int(seen[0])
    path = tmp_path / "pictures" / f"class_{number}.png"
    assert np.array_equal(tile(path, 0), tile(tmp_path / "pictures" / "epoch_002.png", 0))


def test_the_same_noise_after_every_epoch(tmp_path):
    recorder = make_recorder(tmp_path)
    recorder.note(0, {})
    torch.manual_seed(9)
    recorder.note(1, {})
    pictures = tmp_path / "pictures"
    assert (pictures / "epoch_001.png").read_bytes() == (pictures / "epoch_002.png").read_bytes()
