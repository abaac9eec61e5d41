from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from thinet.datasets.folder import Folder


def test_in_class_folders_everybody_looks_for_everybody(
    tree: Callable[[Mapping[str, int]], Path],
) -> None:
    root = tree({"train/cat": 4, "train/dog": 4, "test/cat": 2, "test/dog": 3})
    data = Folder(root=str(root), image_size=8)
    asked = data.retrieval()
    assert asked.ids.tolist() == [0, 0, 1, 1, 1]
    assert asked.ids.dtype == torch.int64
    assert asked.cameras is None
    assert asked.query.tolist() == asked.gallery.tolist() == [0, 1, 2, 3, 4]
    assert not data.test_is_retrieval
