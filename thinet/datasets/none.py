"""The data set without images: what a network takes and tells apart, and nothing to show it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

from torch import Tensor
from torch.utils.data import DataLoader

from thinet.base.errors import ThinetError
from thinet.datasets.images import ImageView
from thinet.datasets.module import ImageData, Parts
from thinet.datasets.retrieval import Retrieval
from thinet.datasets.steps import Steps
from thinet.datasets.transforms import Preprocessing


class NoImages(ImageData):
    """Classes, image size and normalisation; trainings take steps without a batch.

    What is not given is taken over from a saved network by :meth:`adopt`.

    Args:
        image_size: Side in pixels; None takes the network's, or else ``usual_size``.
        usual_size: See ``image_size``.
        classes: Their names; None takes the network's, or else their numbers.
        num_classes: How many; None takes the number of names, or else the network's.
        mean: Per channel; None takes the network's, or else that of ImageNet.
        std: See ``mean``.
        common: See :class:`~thinet.datasets.module.ImageData`.

    Raises:
        ThinetError: If names and number of classes differ.
    """

    has_images = False

    def __init__(
        self,
        *,
        image_size: int | None,
        usual_size: int,
        classes: Sequence[str] | None = None,
        num_classes: int | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        **common: Any,
    ) -> None:
        usual = {"flip": False, "crop": "none", "resize": "none"}
        size = usual_size if image_size is None else image_size
        super().__init__(
            image_size=size, num_classes=num_classes, mean=mean, std=std, **{**usual, **common}
        )
        self._open = {"size": image_size is None, "mean": mean is None, "std": std is None}
        if classes:
            self._set_classes([str(name) for name in classes], "dataset.classes")

    def adopt(
        self,
        *,
        input_shape: Sequence[int] = (),
        classes: Sequence[str] = (),
        num_classes: int | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        """Take over what a saved network says of its images, where nothing else was given.

        Args:
            input_shape: ``(C, H, W)``, or empty if it is not known.
            classes: Their names, or empty.
            num_classes: How many outputs it has, or None.
            mean: Of its normalisation, or None.
            std: See ``mean``.

        Raises:
            ThinetError: If its images are not square and of three channels.
        """
        if input_shape and self._open["size"]:
            channels, height, width = (*input_shape, 0, 0, 0)[:3]
            if len(input_shape) != 3 or channels != 3 or height != width:
                shown = "x".join(map(str, input_shape))
                raise ThinetError(
                    f"the saved network takes images of {shown}, and dataset=none has square ones "
                    "of 3 channels: give a network for such images, or type dataset.image_size=32."
                )
            self.image_size = height
        if mean is not None and std is not None and self._open["mean"] and self._open["std"]:
            self.mean, self.std = tuple(mean), tuple(std)
        if not self.classes and classes and self.num_classes in (None, len(classes)):
            self._set_classes(classes, "the saved network")
        if self.num_classes is None:
            self.num_classes = num_classes
        self.preprocessing = Preprocessing(
            self.image_size, "none", "none", False, self.mean, self.std
        )

    def check(self) -> None:
        """The number of classes must be known.

        Raises:
            ThinetError: If it is not.
        """
        if self.num_classes is None:
            raise ThinetError(
                "dataset=none does not say how many classes there are: type teacher=<folder of a "
                "finished run>, which does, or for example dataset.num_classes=10."
            )
        if not self.classes:
            self._set_classes([str(number) for number in range(self.num_classes)], "dataset=none")

    def setup(self, stage: str | None = None) -> None:
        """There is nothing to read."""
        self.check()

    def load_parts(self) -> Parts:
        """There are none."""
        self._refuse()

    def train_dataloader(self) -> DataLoader[Any]:
        """Steps without a batch."""
        return super().train_dataloader() if isinstance(self.batches, Steps) else self._refuse()

    def val_dataloader(self) -> DataLoader[tuple[Tensor, int]]:
        """There are no validation images."""
        self._refuse()

    def test_dataloader(self) -> DataLoader[tuple[Tensor, int]]:
        """There are no test images."""
        self._refuse()

    def plain_training(self) -> ImageView:
        """There are no training images, and none to calibrate with."""
        self._refuse()

    def retrieval(self) -> Retrieval:
        """There is nothing to find."""
        self._refuse()

    def _refuse(self) -> NoReturn:
        """Whoever comes here should have been told before any work."""
        raise ThinetError(
            "dataset=none has no images, and this needs some: type for example dataset=digits."
        )
