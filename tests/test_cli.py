"""The ``thinet`` command on a small finished run."""

from __future__ import annotations

import json
import shutil
import sys
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import thinet
from tests.report.conftest import pruned, toy, trained, write_failure, write_run
from thinet.artifacts.store import Spec, save
from thinet.cli import main
from thinet.models import build
from thinet.report import draw_figures, write_report
from thinet.run.environment import missing_packages
from thinet.run.result import read_result

ROOT = Path(__file__).parents[1]


def finished(folder, result):
    """A finished run without its network."""
    write_run(folder, result)
    write_report(result, folder)
    draw_figures(result, folder / "figures")
    (folder / "state.json").write_text(json.dumps({"status": "complete", "run_id": "x"}))


@pytest.fixture
def outputs(tmp_path):
    """``outputs/`` with one finished run."""
    finished(tmp_path / "outputs" / "tiny", pruned(1, name="tiny"))
    arguments = {"num_classes": 5, "image_size": 16, "widths": [4, 8]}
    builder = {"target": "thinet.models.small_vgg.vgg_small", "arguments": arguments}
    torch.manual_seed(0)
    network = build(builder["target"], **arguments)
    spec = Spec(builder=builder, input_shape=(3, 16, 16))
    save(network, tmp_path / "outputs" / "tiny" / "model", spec)
    return tmp_path / "outputs"


def unfinished(outputs, name="half"):
    """A run that was killed after its first stage."""
    shutil.copytree(outputs / "tiny", outputs / name)
    (outputs / name / "result.json").unlink()
    state = json.loads((outputs / name / "state.json").read_text())
    running = {**state, "status": "running", "steps": [{"index": 0}]}
    (outputs / name / "state.json").write_text(json.dumps(running))


def test_doctor(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    for text in ("python", "torch", "pytorch-lightning", "free disk space", "no key: offline",
                 "ready"):  # fmt: skip
        assert text in out


def test_doctor_names_what_each_extra_lacks(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = {k: v for k, v in project["optional-dependencies"].items() if k != "dev"}
    lines = [f'{one} ; extra == "{extra}"' for extra, ones in extras.items() for one in ones]
    found = missing_packages([*project["dependencies"], *lines, 'no-such-thing>=1; extra == "new"'])
    assert found == {**{key: [] for key in extras}, "new": ["no-such-thing"]}
    assert missing_packages(['torch>=99 ; extra == "x"', 'mypy ; extra == "dev"']) == {
        "x": ["torch>=99"]
    }
    monkeypatch.setattr("thinet.cli.missing_packages", lambda: {"fast": ["torchcodec"], "ray": []})
    assert main(["doctor"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "extra fast missing torchcodec: pip install 'thinet[fast]'" in out
    assert "extra ray installed" in out


def test_doctor_reports_problems(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    monkeypatch.setattr("os.access", lambda *_: False)
    monkeypatch.setattr("shutil.disk_usage", lambda _: shutil._ntuple_diskusage(10, 10, 0))
    assert main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert out.count("problem: ") == 2
    assert "key found: online" in out
    assert "ready" not in out
    assert "x" * 40 not in out


def test_list(outputs, capsys):
    unfinished(outputs)
    finished(outputs / "trained", trained())
    finished(outputs / "toy", toy())
    assert main(["list", str(outputs)]) == 0
    left = ["4.09", "%", "bits", "of", "parameters"]  # as many of them, and binary operations
    lines = {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines()}
    assert lines == {
        "run": ["status", "steps", "reference", "model", "cost", "left"],
        "tiny": ["complete", "1", "98.89", "%", "97.69", "%", "31.00", "%", "FLOPs"],
        "trained": ["complete", "1", "98.89", "%", "-", "-"],
        "toy": ["complete", "3", "95.00", "%", "90.00", "%", *left],
        "half": ["running", "1", "-", "-", "-"],
    }


@pytest.mark.parametrize("content", ["{", "[]", '{"a": 1}', '{"status": 3}'])
def test_a_damaged_run_does_not_hide_the_others(content, outputs, capsys):
    unfinished(outputs)
    (outputs / "half" / "state.json").write_text(content)
    assert main(["list", str(outputs)]) == 0
    out = capsys.readouterr().out
    assert "complete" in out
    assert "damaged" in out


def test_an_empty_folder_has_nothing_to_list(tmp_path, capsys):
    assert main(["list", str(tmp_path)]) == 2
    assert capsys.readouterr().err == (
        f"error: {tmp_path} holds no runs: start one with python run.py.\n"
    )


def test_report_of_one_run(outputs, capsys):
    folder = outputs / "tiny"
    figures = sorted(path.name for path in (folder / "figures").iterdir())
    shutil.rmtree(folder / "figures")
    (folder / "report.html").unlink()
    assert main(["report", str(folder)]) == 0
    assert sorted(path.name for path in (folder / "figures").iterdir()) == figures
    assert "<html" in (folder / "report.html").read_text()
    assert str(folder / "report.html") in capsys.readouterr().out


def test_report_of_several_runs(outputs, tmp_path, capsys):
    shutil.copytree(outputs / "tiny", outputs / "other")
    out = tmp_path / "both"
    arguments = ["report", str(outputs / "tiny"), str(outputs / "other"), "--out", str(out)]
    assert main(arguments) == 0
    assert "comparison.html" in capsys.readouterr().out
    assert (out / "comparison.html").exists()


def test_report_compares_whatever_has_ended(outputs, tmp_path, capsys):
    """One run if a place is named, a failed one alone, and a folder with nothing but failures."""
    failed = write_failure(outputs / "failed", error="no.")
    (tmp_path / "lost" / "a").mkdir(parents=True)
    shutil.copy(failed / "failure.json", tmp_path / "lost" / "a")
    for place, folder in enumerate((outputs / "tiny", failed, tmp_path / "lost", outputs)):
        out = tmp_path / f"out{place}"
        arguments = ["report", str(folder), "--out", str(out)]
        assert main(arguments) == 0
        assert capsys.readouterr().out.strip() == str(out / "comparison.html")
        rows = (out / "comparison.html").read_text().count("<tr data-run=")
        assert rows == (2 if folder == outputs else 1)


def test_report_does_not_compare_across_protocols(outputs, tmp_path, capsys):
    shutil.copytree(outputs / "tiny", outputs / "other")
    for name, resize in (("tiny", "fixed"), ("other", "keep")):
        result = read_result(outputs / name)
        shutil.rmtree(outputs / name)
        write_run(outputs / name, replace(result, protocol={"resize": resize}))
    assert main(["report", str(outputs), "--out", str(tmp_path / "out")]) == 2
    err = capsys.readouterr().err
    assert "two evaluation protocols cannot be compared" in err
    assert err.count("\n") == 1
    assert not (tmp_path / "out" / "comparison.html").exists()


@pytest.mark.parametrize("kind", ["onnx", "pt2"])
@pytest.mark.parametrize("part", ["", "model"])
def test_export(kind, part, outputs, capsys):
    if kind == "onnx":
        for name in ("onnx", "onnxscript", "onnxruntime"):
            pytest.importorskip(name)
    assert main(["export", str(outputs / "tiny" / part), f"--{kind}"]) == 0
    path = outputs / "tiny" / "model" / f"model.{kind}"
    assert path.stat().st_size > 0
    assert capsys.readouterr().out.startswith(f"{path}: outputs equal the original's within ")


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["report", "{}/nothing"], "nothing"),
        (["report", "{}/half"], "result.json"),
        (["export", "{}/nothing", "--pt2"], "holds no spec.json"),
    ],
)
def test_mistakes_are_one_sentence(arguments, wanted, outputs, capsys):
    unfinished(outputs)
    assert main([text.format(outputs) for text in arguments]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert wanted in err
    assert err.count("\n") == 1
    with pytest.raises(thinet.ThinetError):
        main(["--traceback", *(text.format(outputs) for text in arguments)])


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        ({"format": 1}, "has format 1"),
        ({"reference": {}}, "is damaged (reference.flops: Field required)"),
        ({"details": {"pruning": 3}}, "details of pruning"),
    ],
)
def test_a_damaged_result_is_one_sentence(change, wanted, outputs, capsys):
    path = outputs / "tiny" / "result.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    assert main(["report", str(outputs / "tiny")]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert wanted in err
    assert "repeat the run" in err
    assert err.count("\n") == 1


def test_a_command_is_needed(capsys):
    for arguments in ([], ["export", "x"], ["export", "x", "--onnx", "--pt2"], ["fly"]):
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 2
    assert "usage: thinet" in capsys.readouterr().err


def test_help_is_quick(capsys):
    """The parser is made without torch; commands import what they need."""
    with pytest.raises(SystemExit):
        main(["--help"])
    out = capsys.readouterr().out
    for command in ("doctor", "list", "report", "export"):
        assert command in out
    source = sys.modules["thinet.cli"].__dict__
    assert "torch" not in source
