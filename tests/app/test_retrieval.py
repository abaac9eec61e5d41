"""``evaluate=retrieval`` from the command line to the pages: found by features, and called so."""

from __future__ import annotations

import csv
import html
import json
import re

import pytest
from PIL import Image

from tests.app.test_bad_input import refused
from thinet.cli import main

TWO_HEADS = """
from torch import nn

class TwoHeads(nn.Module):
    def __init__(self, size, num_classes):
        super().__init__()
        self.one, self.two = nn.Linear(size, num_classes), nn.Linear(size, num_classes)

    def forward(self, images):
        return self.one(images.flatten(1)) + self.two(images.flatten(1))

def two_heads(num_classes, image_size) -> nn.Module:
    return TwoHeads(3 * image_size**2, num_classes)
"""
KEYS = ("top1", "top5", "top10", "mean_ap")


@pytest.fixture
def once(type_, tiny, tmp_path):
    """``once(...)``: run it, and give its folder, its result and what was printed."""

    def make(*arguments):
        before = {*(tmp_path / "outputs").glob("*/result.json")}
        done = type_(*tiny, *arguments)
        assert done.code == 0, done.err[-3000:]
        new = {*(tmp_path / "outputs").glob("*/result.json")} - before
        folder = new.pop().parent if new else None
        return folder, folder and json.loads((folder / "result.json").read_text()), done.out

    return make


def page_of(path):
    """What a page says: its text, without markup, pictures and recorded settings."""
    text = path.read_text(encoding="utf-8").partition("<details>")[0]
    text = re.sub(r"<(style|script|pre).*?</\1>", " ", text, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", text)).split())


def test_a_training_is_told_by_what_was_found(once, tiny, type_):
    folder, result, out = once("method=train", "evaluate=retrieval")
    found = result["reference"]
    assert result["evaluation"] == "retrieval"
    assert all(0 < found[key] <= 1 for key in KEYS)
    assert found["top1"] <= found["top5"] <= found["top10"]
    names = ("rank-1", "rank-5", "rank-10", "mAP")
    shown = [f"{name} {100 * found[key]:.2f} %" for name, key in zip(names, KEYS, strict=True)]
    terminal, page = " ".join(out.split()), page_of(folder / "report.html")
    for text in (terminal, page):
        assert f"{100 * found['top1']:.2f} % rank-1, " in text
        assert "find their like by the cosine of their features" in text
        assert "rank-1 is Recall@1" in text
        assert "train: vgg_small on digits, retrieval" in text
        for line in shown:
            assert line in text
        assert "top-1" not in text
        assert "ccurac" not in text
    assert "queries: 359, gallery: 359, queries without a match, left out: 0" in page

    _, _, again = once("method=train", "evaluate=retrieval")
    assert "has been run before" in again
    for line in shown:
        assert line in " ".join(again.split())


def test_pruning_is_told_by_both(once, tmp_path, capfd):
    """Steps are judged by the classes of validation images, what is left by what is found."""
    arguments = ["schedule=oneshot", "criterion=l2", "reconstruction.recalibrate_bn=each"]
    folder, result, out = once(*arguments, "evaluate=retrieval")
    old, new = result["reference"], result["model"]
    terminal, page = " ".join(out.split()), page_of(folder / "report.html")
    assert f"baseline: test rank-1 {100 * old['top1']:.2f} %" in terminal
    head = f"{100 * old['top1']:.2f} % rank-1 → {100 * new['top1']:.2f} % rank-1 at"
    before = result["details"]["pruning"]["before_finetuning"]["plain"]
    cut = f"BatchNorm recalibration: rank-1 {100 * before['top1']:.2f} %, rank-5"
    for text in (terminal, page):
        assert head in text
        assert cut in text
        assert f"mAP {100 * old['mean_ap']:.2f} % {100 * new['mean_ap']:.2f} %" in text
        assert "test top-1" not in text
    (step,) = result["steps"]
    assert not {"top10", "mean_ap"} & set(step["figures"])
    assert "validation top-1" in terminal

    # Beside the same run that classifies: another run, a chart and columns of its own.
    plain, classified, _ = once(*arguments)
    assert classified["reference"]["val_top1"] == old["val_top1"], "one baseline for both"
    assert classified["model"]["val_top1"] == new["val_top1"]
    assert "evaluate" not in classified["settings"]
    assert main(["report", str(folder), str(plain), "--out", str(tmp_path / "both")]) == 0
    with (tmp_path / "both" / "sweep.csv").open() as file:
        retrieved, other = csv.DictReader(file)
    assert (retrieved["evaluate"], other["evaluate"]) == ("retrieval", "")
    wanted = [
        ("rank1", new["top1"]), ("rank1_reference", old["top1"]), ("rank10", new["top10"]),
        ("mAP", new["mean_ap"]), ("mAP_reference", old["mean_ap"]), ("rank1_cut", before["top1"]),
    ]  # fmt: skip
    for key, value in wanted:
        assert float(retrieved[key]) == value
        assert other[key] == ""
    for key in ("top1", "top1_reference", "top1_drop", "top5", "top1_cut"):
        assert retrieved[key] == ""
        assert other[key] != ""
    assert float(other["top1"]) == classified["model"]["top1"]
    text = page_of(tmp_path / "both" / "comparison.html")
    for words in ("Accuracy against FLOPs removed", "Rank-1 against FLOPs removed",
                  "digits, retrieval", "top-1", "rank-1", "rank-10", "mAP"):  # fmt: skip
        assert words in text
    capfd.readouterr()
    assert main(["list", str(tmp_path / "outputs")]) == 0
    listed = capfd.readouterr().out
    assert f"{100 * new['top1']:.2f} % rank-1" in listed


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["evaluate=both"], ["evaluate=both is unknown", "classification or retrieval"]),
        (["evaluate=null"], ["evaluate=None is unknown"]),
        (
            ["evaluate=retrieval", "model.build._target_=thinet.models.small_vgg.none"],
            ["error: 'thinet.models.small_vgg.none' does not name"],
        ),
    ],
)
def test_what_there_is_not_is_refused(arguments, words, type_, tmp_path):
    refused(type_(*arguments), *words)
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize("dry", [[], ["dry_run=true"]])
def test_images_of_other_classes_cannot_be_classified(dry, type_, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("thinet.datasets.digits.Digits.test_is_retrieval", True)
    monkeypatch.setattr("thinet.engine.engine.Engine.fit", lambda *_: pytest.fail("it trained"))
    refused(type_(*tiny, *dry), "can be found but not classified: type evaluate=retrieval")
    assert not [*tmp_path.glob("outputs/*/result.json")]


@pytest.mark.parametrize("dry", [[], ["dry_run=true"]])
def test_a_network_without_a_classifier(dry, type_, tiny, tmp_path, monkeypatch):
    """Two heads whose outputs are added: neither input is the feature."""
    monkeypatch.setattr("thinet.engine.engine.Engine.fit", lambda *_: pytest.fail("it trained"))
    (tmp_path / "twoheads.py").write_text(TWO_HEADS)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("THINET_TRUST", "twoheads")
    small = [text for text in tiny if not text.startswith("model.")]
    arguments = ["method=train", "evaluate=retrieval", "model.build._target_=twoheads.two_heads",
                 "~model.build.widths"]  # fmt: skip
    refused(
        type_(*small, *dry, *arguments), "evaluate=retrieval looks at the input of the classifier",
        "logits do not come from one layer", "type evaluate=classification",
    )  # fmt: skip


def test_images_that_are_all_of_their_own_kind(type_, tmp_path, monkeypatch):
    for part, count in (("train", 3), ("test", 1)):
        for shade, name in ((0, "cat"), (200, "dog")):
            (tmp_path / part / name).mkdir(parents=True)
            for number in range(count):
                image = Image.new("RGB", (8, 8), (shade, 60 * number, 9))
                image.save(tmp_path / part / name / f"{number}.png")
    monkeypatch.setattr("thinet.engine.engine.Engine.fit", lambda *_: pytest.fail("it trained"))
    done = type_(
        "dataset=folder", f"dataset.root={tmp_path}", "evaluate=retrieval", "dataset.image_size=8",
        "model.build.widths=[4,8]", "model.paper_layers=[]", "method=train", "trainer=cpu",
    )  # fmt: skip
    refused(done, "no test image has its like", "type evaluate=classification")
