"""ImageNet-1k (ILSVRC 2012) as plain ``train/`` and ``val/`` folders of wnid folders."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from thinet.base.errors import ThinetError
from thinet.datasets.layout import check_part, check_same_classes, data_root, is_image, list_part
from thinet.datasets.module import ImageData, Parts

LAYOUT = "expected <root>/train/<wnid>/*.JPEG and <root>/val/<wnid>/*.JPEG, 1000 wnids"
CLASSES = 1000
SORT_VAL = (
    "wget -qO- https://raw.githubusercontent.com/soumith/imagenetloader.torch/master/valprep.sh"
    " | bash"
)


class ImageNet(ImageData):
    """ImageNet-1k; the 50,000 published validation images are the test set.

    The sorted wnids are the class indices, as in torchvision's pretrained weights.

    Args:
        root: Folder that holds ``train`` and ``val``.
        common: See :class:`~thinet.datasets.module.ImageData`.
    """

    def __init__(self, *, root: str | None = None, **common: Any) -> None:
        super().__init__(**common)
        self.root = root

    def check(self) -> None:
        """Check that both parts have the 1000 classes, and decode some images.

        Raises:
            ThinetError: If the layout is wrong, or a class is empty.
        """
        train, val = self._part_folders()
        classes, some = check_part(train)
        if len(classes) != CLASSES:
            raise ThinetError(
                f"{train} has {len(classes)} class folders instead of {CLASSES}: "
                "complete it, or use dataset=folder for another set of classes."
            )
        names, more = check_part(val)
        check_same_classes(train, val, classes, names)
        self.decode([*some, *more])
        self._set_classes(classes, str(train))

    def load_parts(self) -> Parts:
        """List all image files."""
        train, val = (list_part(part, self.classes, self.read) for part in self._part_folders())
        return Parts(train, test=val)

    def _part_folders(self) -> tuple[Path, Path]:
        root = data_root(self.root, LAYOUT)
        for name in ("train", "val"):
            if not (root / name).is_dir():
                raise ThinetError(f"{root} has no {name} folder: {LAYOUT}.")
        val = root / "val"
        with os.scandir(val) as entries:
            flat = any(is_image(entry.name) and entry.is_file() for entry in entries)
        if flat:
            raise ThinetError(
                f"{val} is a flat folder of images: sort them into the class folders with "
                f"`cd {val} && {SORT_VAL}`."
            )
        return root / "train", val
