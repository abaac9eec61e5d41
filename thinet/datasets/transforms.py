"""From a decoded image to the normalised tensor a network sees (torchvision transforms v2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.transforms import v2

from thinet.base.errors import ThinetError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
SMALL = 64
"""Up to this size (pixels) images are taken whole instead of cropped from a larger one."""

RESIZE = ("auto", "keep", "fixed", "none")
CROP = ("auto", "random_resized", "random", "pad", "none")


@dataclass(frozen=True)
class Preprocessing:
    """How images become inputs of ``3 x image_size x image_size``.

    Args:
        image_size: Side of the network's input, in pixels.
        resize: What happens before the centre crop of an evaluated image. ``keep`` brings the
            shorter side to 256/224 of ``image_size`` and keeps the aspect ratio; ``fixed`` brings
            both sides there (the protocol of the ThiNet paper's Table 1); ``none`` brings the
            whole image to ``image_size`` and crops nothing. ``auto`` is ``none`` for small inputs
            and ``keep`` for others.
        crop: What a training image undergoes. ``random_resized`` cuts out a random area and
            aspect ratio; ``random`` resizes like an evaluated image and cuts a random window (the
            paper's training); ``pad`` takes the whole image, shifted by up to an eighth; ``none``
            does what evaluation does. ``auto`` is ``pad`` for small inputs and ``random_resized``
            for others.
        flip: Mirror training images left to right at random.
        mean: Mean per channel, for pixels in [0, 1].
        std: Standard deviation per channel.

    Raises:
        ThinetError: If ``resize`` or ``crop`` is not one of the words above.
    """

    image_size: int
    resize: str = "auto"
    crop: str = "auto"
    flip: bool = True
    mean: Sequence[float] = IMAGENET_MEAN
    std: Sequence[float] = IMAGENET_STD

    def __post_init__(self) -> None:
        for key, allowed in (("resize", RESIZE), ("crop", CROP)):
            if getattr(self, key) not in allowed:
                raise ThinetError(
                    f"dataset.{key}={getattr(self, key)} is unknown: "
                    f"choose dataset.{key}={'|'.join(allowed)}."
                )

    def protocol(self) -> dict[str, object]:
        """How images are evaluated: accuracies of different protocols must not be compared."""
        resize = self._resize_word()
        side = self.image_size if resize == "none" else self._larger()
        return {"resize": resize, "resized_to": side, "crop": self.image_size}

    def evaluation(self) -> v2.Compose:
        """The deterministic transform of validation, test and calibration images."""
        return v2.Compose([*self._resized(), v2.CenterCrop(self.image_size), *self._finish()])

    def training(self) -> v2.Compose:
        """The random transform of training images; it draws from torch's default generator."""
        size, crop = self.image_size, self.crop
        if crop == "auto":
            crop = "pad" if size <= SMALL else "random_resized"
        if crop == "random_resized":
            steps: list[v2.Transform] = [v2.RandomResizedCrop(size, antialias=True)]
        elif crop == "random":
            steps = [*self._resized(), v2.RandomCrop(size)]
        elif crop == "pad":
            padded = v2.RandomCrop(size, padding=max(size // 8, 1))
            steps = [v2.Resize((size, size), antialias=True), padded]
        else:
            steps = [*self._resized(), v2.CenterCrop(size)]
        if self.flip:
            steps.append(v2.RandomHorizontalFlip())
        return v2.Compose([*steps, *self._finish()])

    def _resized(self) -> list[v2.Transform]:
        resize = self._resize_word()
        if resize == "keep":
            return [v2.Resize(self._larger(), antialias=True)]
        side = self._larger() if resize == "fixed" else self.image_size
        # torchvision hands an image that already has the size back untouched
        return [v2.Resize((side, side), antialias=True)]

    def _resize_word(self) -> str:
        if self.resize != "auto":
            return self.resize
        return "none" if self.image_size <= SMALL else "keep"

    def _larger(self) -> int:
        """Side of an image before the crop, in pixels."""
        return round(self.image_size * 256 / 224)

    def _finish(self) -> list[v2.Transform]:
        return [
            v2.ToImage(),
            _dense,
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(list(self.mean), list(self.std)),
            v2.ToPureTensor(),
        ]


def _dense(image: Tensor) -> Tensor:
    """Channel by channel, as a batch lies: arithmetic and stacking are quicker, values the same."""
    return image.contiguous()
