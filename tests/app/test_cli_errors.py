"""Errors become one sentence and an exit code."""

from __future__ import annotations

import errno
import signal
import sys
from pathlib import Path

import pytest
import torch
from hydra.core.utils import JobReturn, JobStatus

from thinet.app.cli_errors import errors_as_sentences, sentence
from thinet.base.errors import ThinetError

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _command_line(monkeypatch):
    """As ``python run.py``; what errors_as_sentences() changes for the process is put back."""
    monkeypatch.setattr(sys, "argv", [str(ROOT / "run.py")])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "")
    monkeypatch.setattr(JobReturn, "return_value", JobReturn.return_value)


def composition_error(compose, *overrides):
    with pytest.raises(Exception) as caught:  # noqa: PT011 - the kinds are Hydra's own
        compose(*overrides)
    return caught.value


@pytest.mark.parametrize(
    ("override", "wanted"),
    [
        ("model=vgg61", "model=vgg61 does not exist; did you mean model=vgg1"),
        (
            "criterion=thinnet",
            "did you mean criterion=thinet? Choose among activation_mean, apoz, ",
        ),
        ("dataset=mars", "dataset=mars does not exist; Choose among celeba, cifar10, cifar100, "),
        ("experiment=nothing", "experiment=nothing does not exist"),
        ("ratoi=0.3", "there is no key 'ratoi'; did you mean ratio? "),
        ("modle=vgg16", "there is no key 'modle'; did you mean model? "),
        ("finetune.stage.epoch=3", "did you mean finetune.stage.epochs? "),
        ("epochs=3", "there is no key 'epochs'; did you mean "),
        ("zzzz=3", "there is no key 'zzzz'; python run.py --help lists"),
        ("~nothing", "there is no key 'nothing'"),
        ("~ratio=3", "The value of 'ratio' is 0.5 and not 3"),
        ("+ratio=0.3", "'ratio' is there already: type it without the +"),
        ("ratio=0.3,0.5", "add -m to run one after the other, or type ratio=[0.3,0.5]"),
        ("dataset.root=x", "'dataset.root' here; it belongs to dataset=celeba, cifar10, "),
        ("model=null", "python run.py --help"),
        ("ratio", "'ratio' is not of the form key=value"),
        ("ratio=[0.5", "'ratio=[0.5' is not of the form key=value"),
        ("model.build.depth=3", "there is no key 'model.build.depth'"),
    ],
)
def test_mistakes_on_the_command_line(override, wanted, compose):
    text, code = sentence(composition_error(compose, override))
    assert wanted in text
    assert code == 2
    assert "\n" not in text
    assert "struct" not in text


@pytest.mark.parametrize(
    ("error", "wanted", "code"),
    [
        (ThinetError("wrong\n  here: type this."), "wrong here: type this.", 2),
        (OSError(errno.ENOSPC, "No space left on device", "/x/y"), "free some space", 2),
        (PermissionError(errno.EACCES, "Permission denied", "/x/y"), "/x/y (Permission denied)", 2),
        (OSError("odd"), "cannot read or write (odd)", 2),
        (torch.OutOfMemoryError("CUDA out of memory"), "smaller finetune.batch_size", 2),
        (ZeroDivisionError("by zero\nmore"), "unexpected ZeroDivisionError: by zero;", 1),
        (KeyError("a"), "add traceback=true", 1),
        (RuntimeError(), "unexpected RuntimeError", 1),
    ],
)  # fmt: skip
def test_exceptions(error, wanted, code):
    text, found = sentence(error)
    assert wanted in text
    assert found == code
    assert "\n" not in text


def fail_with(error):
    def main():
        print("before")
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (ThinetError("no: type yes."), 2, "error: no: type yes.\n"),
        (ValueError("odd"), 1, "error: unexpected ValueError: odd; "),
        (KeyboardInterrupt(), 130, "\ninterrupted: type the same command again to go on.\n"),
    ],
)
def test_guarded_exits_without_a_traceback(error, code, text, capsys):
    with pytest.raises(SystemExit) as caught:
        errors_as_sentences(fail_with(error))
    assert caught.value.code == code
    out, err = capsys.readouterr()
    assert out == "before\n"
    assert err.startswith(text)
    assert err.count("\n") == text.count("\n") or code == 1
    assert "Traceback" not in err


@pytest.mark.parametrize("how", ["argument", "environment"])
def test_a_traceback_when_asked_for(how, monkeypatch):
    if how == "argument":
        monkeypatch.setattr(sys, "argv", ["run.py", "traceback=true"])
    else:
        monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with pytest.raises(ThinetError, match="no"):
        errors_as_sentences(fail_with(ThinetError("no")))


def test_guarded_passes_what_is_well(capsys):
    errors_as_sentences(lambda: print("fine"))
    assert capsys.readouterr() == ("fine\n", "")


def test_hydra_adds_no_line_of_its_own(capsys):
    failed = JobReturn(overrides=["a=1"], status=JobStatus.FAILED)
    failed.return_value = ThinetError("no: type yes.")

    def main():
        return failed.return_value

    with pytest.raises(SystemExit):
        errors_as_sentences(main)
    assert capsys.readouterr().err == "error: no: type yes.\n"
    done = JobReturn(status=JobStatus.COMPLETED)
    done.return_value = 0.5
    assert done.return_value == 0.5


def test_a_killed_worker_of_a_sweep():
    joblib = pytest.importorskip("joblib")
    with pytest.raises(Exception, match=r"terminated|killed") as caught:
        joblib.Parallel(n_jobs=2)(joblib.delayed(signal.raise_signal)(signal.SIGKILL) for _ in "ab")
    text, code = sentence(caught.value)
    assert text.startswith("a worker of the sweep died ")
    assert "type the same command again" in text
    assert code == 2
