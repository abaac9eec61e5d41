"""Market-1501 and MSMT17, written here in their published layouts."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.datasets.conftest import jpeg
from thinet.base.errors import ThinetError
from thinet.datasets.reid import NO_CLASS, ReID

MARKET = {
    "bounding_box_train": [
        "0002_c1s1_000451_03.jpg", "0002_c1s1_000551_01.jpg", "0002_c2s1_000301_01.jpg",
        "0007_c1s6_028546_01.jpg", "0007_c2s3_070952_01.jpg", "0007_c3s3_077419_03.jpg",
        "-1_c1s1_000001_00.jpg",
    ],
    "query": ["0001_c1s1_001051_00.jpg", "0003_c3s1_000001_00.jpg", "0004_c6s3_094992_00.jpg"],
    "bounding_box_test": [
        "-1_c1s1_000401_03.jpg", "0000_c1s1_000151_01.jpg", "0000_c6s4_002427_04.jpg",
        "0001_c1s1_001051_03.jpg", "0001_c2s1_000301_00.jpg", "0003_c4s6_015641_02.jpg",
        "1501_c6s4_001877_01.jpg",
    ],
}  # fmt: skip
MSMT = {
    "list_train.txt": [
        "0000/0000_000_01_0303morning_0015_0.jpg 0", "0000/0000_001_01_0303morning_0016_0.jpg 0",
        "0001/0001_000_14_0303noon_0255_1.jpg 1", "0001/0001_001_05_0303noon_0255_2.jpg 1",
    ],
    "list_val.txt": [
        "0000/0000_002_08_0303morning_0036_0.jpg 0", "0001/0001_005_15_0303noon_0287_1.jpg 1",
    ],
    "list_query.txt": [
        "0000/0000_000_01_0302afternoon_1029_0.jpg 0", "0001/0001_000_04_0302noon_0001_0.jpg 1",
    ],
    "list_gallery.txt": [
        "0001/0001_001_04_0302noon_0002_0.jpg 1", "0000/0000_004_12_0302afternoon_1100_1.jpg 0",
        "0002/0002_000_03_0302morning_0700_0.jpg 2",
    ],
}  # fmt: skip


def put(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(jpeg(sum(path.name.encode()), (4, 8)))


def write_market(root: Path) -> Path:
    for folder, names in MARKET.items():
        for name in names:
            put(root / folder / name)
        (root / folder / "Thumbs.db").write_bytes(b"no image")  # as in the published archive
    return root


def write_msmt(root: Path, train: str = "train", test: str = "test") -> Path:
    for name, lines in MSMT.items():
        images = root / (train if name in ("list_train.txt", "list_val.txt") else test)
        for line in lines:
            put(images / line.split()[0])
        (root / name).write_text("\n".join(lines) + "\n")
    return root


def reid(root: Path, **settings: Any) -> ReID:
    return ReID(root=str(root), image_size=16, batch_size=4, resize="none", crop="pad", **settings)


def files(data: ReID, view: Any) -> list[str]:
    return [Path(view.images.path(int(i))).name for i in view.positions]


@pytest.mark.parametrize("layout", ["auto", "market1501"])
@pytest.mark.parametrize("above", [False, True])
def test_market1501(tmp_path: Path, layout: str, above: bool) -> None:
    write_market(tmp_path / "Market-1501-v15.09.15")
    data = reid(tmp_path if above else tmp_path / "Market-1501-v15.09.15", layout=layout)
    data.setup()
    assert data.classes == ["0002", "0007"]
    assert data.num_classes == 2
    train, val = data.train_dataloader().dataset, data.val_dataloader().dataset
    named = dict(zip(files(data, train) + files(data, val), train.labels + val.labels, strict=True))
    assert named == {
        name: int(name.startswith("0007"))
        for name in MARKET["bounding_box_train"]
        if name[0] != "-"
    }
    assert sorted(val.labels) == [0, 1]  # one of each person is set aside
    test = data.test_dataloader().dataset
    gallery = [name for name in MARKET["bounding_box_test"] if not name.startswith("-1")]
    assert files(data, test) == MARKET["query"] + gallery
    asked = data.retrieval()
    assert asked.query.tolist() == [0, 1, 2]
    assert asked.gallery.tolist() == [3, 4, 5, 6, 7, 8]
    assert asked.ids.tolist() == [1, 3, 4, -1, -1, 1, 1, 3, 1501]
    assert asked.cameras is not None
    assert asked.cameras.tolist() == [1, 3, 6, 1, 6, 1, 2, 4, 6]
    assert asked.ids.dtype == asked.cameras.dtype == asked.query.dtype == torch.int64


@pytest.mark.parametrize(("train", "test"), [("train", "test"), ("mask_train_v2", "mask_test_v2")])
@pytest.mark.parametrize("layout", ["auto", "msmt17"])
def test_msmt17(tmp_path: Path, train: str, test: str, layout: str) -> None:
    data = reid(write_msmt(tmp_path / "MSMT17_V1", train, test).parent, layout=layout)
    data.setup()
    assert data.classes == ["0000", "0001"]

    def listed(name: str) -> list[str]:
        return [line.split()[0].split("/")[1] for line in MSMT[name]]

    part = data.train_dataloader().dataset
    assert files(data, part) == listed("list_train.txt")
    assert part.labels == [0, 0, 1, 1]
    assert files(data, data.val_dataloader().dataset) == listed("list_val.txt")
    assert data.val_dataloader().dataset.labels == [0, 1]
    shown = files(data, data.test_dataloader().dataset)
    assert shown == listed("list_query.txt") + listed("list_gallery.txt")
    asked = data.retrieval()
    assert asked.ids.tolist() == [0, 1, 1, 0, 2]  # 0 is a person here
    assert asked.cameras is not None
    assert asked.cameras.tolist() == [1, 4, 4, 12, 3]
    assert (asked.query.tolist(), asked.gallery.tolist()) == ([0, 1], [2, 3, 4])


@pytest.mark.parametrize("pattern", ["{}_000_{:02}_0303morning_0015_{}.jpg", "{}_c{}_{:04}.jpg"])
def test_msmt17_copied_into_the_folders_of_market1501(tmp_path: Path, pattern: str) -> None:
    """Persons are numbered from 0 there, and the test part begins anew."""
    shots = {
        "bounding_box_train": [("0000", 1), ("0000", 2), ("0001", 15), ("0001", 2)],
        "query": [("0000", 3)],
        "bounding_box_test": [("0000", 12), ("0001", 4)],
    }
    for folder, persons in shots.items():
        for number, (person, camera) in enumerate(persons):
            put(tmp_path / folder / pattern.format(person, camera, number))
    data = reid(tmp_path)
    asked = data.retrieval()
    assert data.classes == ["0000", "0001"]
    assert asked.ids.tolist() == [0, 0, 1]
    assert asked.cameras is not None
    assert asked.cameras.tolist() == [3, 12, 4]


def test_test_images_load_and_are_of_no_class(tmp_path: Path) -> None:
    data = reid(write_market(tmp_path))
    images, labels = (torch.cat(part) for part in zip(*data.test_dataloader(), strict=True))
    assert images.shape == (9, 3, 16, 16)
    assert labels.tolist() == [NO_CLASS] * 9
    assert ReID.test_is_retrieval


def test_people_are_seen_from_head_to_foot(tmp_path: Path) -> None:
    """The whole box is squeezed into the square: nothing is cropped."""
    data = reid(write_market(tmp_path), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    image = data.test_dataloader().dataset[0][0]
    from PIL import Image
    from torchvision.transforms.v2 import functional

    path = tmp_path / "query" / MARKET["query"][0]
    whole = functional.resize(Image.open(path), [16, 16], antialias=True)
    torch.testing.assert_close(image, functional.to_image(whole).float() / 255)


def lines(name: str, change: Callable[[list[str]], list[str]]) -> Callable[[Path], None]:
    def spoil(root: Path) -> None:
        path = root / name
        path.write_text("\n".join(change(path.read_text().splitlines())))

    return spoil


def refused(root: Path, words: str, **settings: Any) -> None:
    with pytest.raises(ThinetError, match=words) as caught:
        reid(root, **settings).check()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda r: shutil.rmtree(r / "bounding_box_train"), r"holds no persons: expected <root>/"),
        (lambda r: shutil.rmtree(r / "query"), r"query is missing: expected"),
        (lambda r: shutil.rmtree(r / "bounding_box_test"), r"bounding_box_test is missing"),
        (lambda r: [p.unlink() for p in (r / "query").glob("*.jpg")], r"query has no images of"),
        (lambda r: [p.unlink() for p in (r / "bounding_box_test").glob("[01]*")],
         r"bounding_box_test has no images of persons"),
        (lambda r: put(r / "query/photo.jpg"), r"query/photo\.jpg does not tell its person"),
        (lambda r: put(r / "query/0001_1_001051_00.jpg"), r"a name like 0002_c1s1_000451_03\.jpg"),
        (lambda r: put(r / f"query/{'9' * 30}_c1s1_000001_00.jpg"), r"does not tell its person"),
        (lambda r: put(r / "query/0000_c1s1_000001_00.jpg"), r"0000_c1s1\S+ is of nobody"),
        (lambda r: put(r / "bounding_box_train/0000_c1s1_000001_00.jpg"), r"is of nobody"),
        (lambda r: put(r / "query/0007_c1s1_000001_00.jpg"), r"has person 0007 among training and"),
        (lambda r: put(r / "bounding_box_test/0002_c1s1_000001_00.jpg"), r"has person 0002 among"),
        (lambda r: [p.unlink() for p in (r / "query").glob("000[13]*")],
         r"no query of .* has its person in the gallery under another camera"),
    ],
)  # fmt: skip
def test_what_is_not_market1501_is_one_sentence(
    tmp_path: Path, spoil: Callable[[Path], object], words: str
) -> None:
    root = write_market(tmp_path / "market")
    reid(root).check()
    spoil(root)
    refused(root, words)


def test_one_camera_alone_finds_nothing(tmp_path: Path) -> None:
    root = write_market(tmp_path)
    for name in ("0001_c2s1_000301_00.jpg", "0003_c4s6_015641_02.jpg"):
        (root / "bounding_box_test" / name).unlink()
    refused(root, "no query of .* has its person in the gallery under another camera")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        *((lambda r, n=n: (r / n).unlink(), rf"{n} is missing: expected") for n in MSMT),
        *((lines(name, lambda _: []), rf"{name} is empty") for name in MSMT),
        (lambda r: shutil.rmtree(r / "test"), r"has neither train and test nor mask_train_v2 and"),
        (lines("list_query.txt", lambda x: ["0000/0000_009_01_0302noon_1_0.jpg 0", *x]),
         r"test/0000/0000_009_01_0302noon_1_0\.jpg is in list_query\.txt but missing"),
        (lines("list_train.txt", lambda x: ["nonsense", *x]), r"has the line 'nonsense' where"),
        (lines("list_train.txt", lambda x: [x[0] + "x", *x]), r"_0\.jpg 0x' where '<folder>/"),
        (lines("list_train.txt", lambda x: [x[0] + "9" * 20, *x]), r"where '<folder>/<file> <p"),
        (lines("list_train.txt", lambda x: ["../test/0001/0001_000_04_0302noon_0001_0.jpg 0", *x]),
         r"the line '\.\./test"),
        (lines("list_train.txt", lambda x: ["/etc/0001_000_04_a.jpg 0", *x]), r"the line '/etc"),
        (lines("list_val.txt", lambda x: [x[0][:-1] + "5"]), r"has person 5, who is not in list_t"),
        (lines("list_gallery.txt", lambda x: x[2:]), r"no query of .* has its person"),
    ],
)  # fmt: skip
def test_what_is_not_msmt17_is_one_sentence(
    tmp_path: Path, spoil: Callable[[Path], object], words: str
) -> None:
    root = write_msmt(tmp_path / "msmt")
    reid(root).check()
    spoil(root)
    refused(root, words)


def test_a_listed_file_must_tell_its_camera(tmp_path: Path) -> None:
    root = write_msmt(tmp_path)
    put(root / "test/0000/photo.jpg")
    lines("list_query.txt", lambda x: ["0000/photo.jpg 0", *x])(root)
    refused(root, r"photo\.jpg does not tell its person and camera by a name like 0000_000_01")


def test_layouts_are_words(tmp_path: Path) -> None:
    root = write_market(tmp_path / "market")
    refused(
        root, r"dataset\.layout=duke is unknown: choose dataset\.layout=auto\|mark", layout="duke"
    )
    refused(root, r"does not tell .* or choose dataset\.layout=market1501\|msmt17", layout="msmt17")
    refused(write_msmt(tmp_path / "msmt"), "holds no persons", layout="market1501")


def test_several_data_sets_in_one_folder(tmp_path: Path) -> None:
    write_market(tmp_path / "market")
    write_msmt(tmp_path / "msmt")
    refused(tmp_path, r"holds several data sets \(market, msmt\): type dataset\.root=\S+/market or")
    data = reid(tmp_path, layout="market1501")
    data.check()
    assert data.classes == ["0002", "0007"]


def test_lists_and_folders_in_one_folder(tmp_path: Path) -> None:
    write_msmt(write_market(tmp_path))
    for layout, classes in (("auto", ["0000", "0001"]), ("market1501", ["0002", "0007"])):
        data = reid(tmp_path, layout=layout)
        data.check()
        assert data.classes == classes


def test_a_broken_image_is_named(tmp_path: Path) -> None:
    path = write_market(tmp_path) / "query" / MARKET["query"][1]
    path.write_bytes(b"x")
    with pytest.raises(ThinetError, match=rf"cannot be read, 0 may be: {path}"):
        reid(tmp_path, max_unreadable=0).setup()


def test_who_looks_for_whom_is_part_of_the_identity(tmp_path: Path) -> None:
    """The last query becomes the first of the gallery: same files in the same order."""
    root = write_msmt(tmp_path)
    before = reid(root).identity()
    query, gallery = root / "list_query.txt", root / "list_gallery.txt"
    *rest, last = query.read_text().splitlines()
    query.write_text("\n".join(rest))
    gallery.write_text(f"{last}\n{gallery.read_text()}")
    after = reid(root).identity()
    assert after["train"] == before["train"]
    assert after["test"] != before["test"]
