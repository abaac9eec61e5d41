"""Any tree of class folders: ``train/<class>/*`` and ``val/`` or ``test/`` or both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from thinet.base.errors import ThinetError
from thinet.datasets.layout import (
    EXPECTED,
    check_part,
    check_same_classes,
    data_root,
    list_part,
    nested_root,
)
from thinet.datasets.module import ImageData, Parts


class Folder(ImageData):
    """Images in class folders; the sorted folder names are the classes.

    With both ``val`` and ``test`` they are what their names say. With one of them it is the test
    set, and validation images are split from ``train``.

    Args:
        root: Folder that holds ``train``.
        common: See :class:`~thinet.datasets.module.ImageData`.
    """

    def __init__(self, *, root: str | None = None, **common: Any) -> None:
        super().__init__(**common)
        self.root = root

    def check(self) -> None:
        """Check the folders, and decode some images of every class.

        Raises:
            ThinetError: If the layout is wrong, or a class is empty.
        """
        train, *others = self._part_folders()
        classes, some = check_part(train)
        for other in others:
            names, more = check_part(other)
            check_same_classes(train, other, classes, names)
            some += more
        self.decode(some)
        self._set_classes(classes, str(train))

    def load_parts(self) -> Parts:
        """List all image files."""
        train, *others = (list_part(part, self.classes, self.read) for part in self._part_folders())
        return Parts(train, test=others[0], val=others[1] if len(others) > 1 else None)

    def _part_folders(self) -> list[Path]:
        """Folders of training, test and, if it is apart from test, validation images."""
        root = data_root(self.root)
        if not (root / "train").is_dir():
            inner = nested_root(root)
            if inner is not None:
                raise ThinetError(f"{root} has no train folder: type dataset.root={inner}.")
            raise ThinetError(f"{root} has no train folder: {EXPECTED}.")
        others = [root / name for name in ("test", "val") if (root / name).is_dir()]
        if not others:
            raise ThinetError(f"{root} has neither a test nor a val folder: {EXPECTED}.")
        return [root / "train", *others]
