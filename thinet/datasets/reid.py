"""Person re-identification: trained on some persons, tested by finding others again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from thinet.datasets.images import FileImages
from thinet.datasets.layout import VERIFIED
from thinet.datasets.module import ImageData, Parts
from thinet.datasets.reid_layout import Persons, Shot, read_persons
from thinet.datasets.retrieval import Retrieval

NO_CLASS = -100
"""Label of test images: the one that torch's cross entropy leaves out."""


class ReID(ImageData):
    """Market-1501 (L. Zheng et al., 2015) or MSMT17 (L. Wei et al., 2018).

    Classes are the persons in the training images. Test images, first the queries and then the
    gallery, are of other persons. MSMT17 has a list of validation images; of Market-1501 they are
    split from the training images. Of Market-1501, images of nobody (0000) stay in the gallery and
    match no query, and bad boxes (-1) are left out, as in its own protocol. A query whose person is
    not in the gallery under another camera counts for nothing, as there.

    Args:
        root: Folder that holds the published folders, or the one above.
        layout: ``market1501``, ``msmt17`` or, to look, ``auto``.
        common: See :class:`~thinet.datasets.module.ImageData`.
    """

    test_is_retrieval = True

    def __init__(self, *, root: str | None = None, layout: str = "auto", **common: Any) -> None:
        super().__init__(**common)
        self.root = root
        self.layout = layout

    def check(self) -> None:
        """Check names, lists and files, and decode some images of each part.

        Raises:
            ThinetError: If they do not fit.
        """
        persons = read_persons(self.root, self.layout)
        for part in (persons.train, persons.val, persons.query, persons.gallery):
            every = -(-len(part) // (VERIFIED // 4)) or 1
            self.decode(shot.path for shot in part[::every])
        names = [f"{person:04}" for person in _persons(persons)]
        self._set_classes(names, str(self.root))

    def load_parts(self) -> Parts:
        """The images of all parts; who is who among the test images is kept apart."""
        persons = read_persons(self.root, self.layout)
        label = {person: label for label, person in enumerate(_persons(persons))}

        def part(shots: Sequence[Shot]) -> FileImages:
            paths = [shot.path for shot in shots]
            return FileImages(paths, [label[shot.person] for shot in shots], self.read)

        test = [*persons.query, *persons.gallery]
        self._retrieval = Retrieval(
            ids=torch.tensor([shot.person for shot in test]),
            cameras=torch.tensor([shot.camera for shot in test]),
            query=torch.arange(len(persons.query)),
            gallery=torch.arange(len(persons.query), len(test)),
        )
        images = PersonFiles([shot.path for shot in test], self._retrieval, self.read)
        return Parts(
            part(persons.train), test=images, val=part(persons.val) if persons.val else None
        )

    def retrieval(self) -> Retrieval:
        """Queries and gallery, with persons and cameras."""
        self.setup()
        return self._retrieval


class PersonFiles(FileImages):
    """Test images, which belong to no class.

    Args:
        paths: One file per image.
        retrieval: Who is on them.
        read: Decodes a file.
    """

    def __init__(self, paths: Sequence[str], retrieval: Retrieval, read: Any) -> None:
        super().__init__(paths, [NO_CLASS] * len(paths), read)
        self._retrieval = retrieval

    def content(self, indices: Sequence[int]) -> bytes:
        """That of the files, and who looks for whom: it may stand in a list beside them."""
        asked = self._retrieval
        assert asked.cameras is not None
        who = torch.stack([asked.ids, asked.cameras]).numpy().tobytes()
        return super().content(indices) + who + repr(asked.query.tolist()).encode()


def _persons(persons: Persons) -> list[int]:
    """Numbers of the persons that are trained on, in the order of the class index."""
    return sorted({shot.person for shot in persons.train})
