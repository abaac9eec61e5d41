"""What goes wrong around a run: one sentence, nothing lost, the same command goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import thinet
from experiments.run_kills.run import members
from tests import warm
from tests.app.conftest import ROOT, command, environment


def lines_until(run: subprocess.Popen[str], text: str) -> list[str]:
    seen = []
    for line in run.stdout:
        seen.append(line)
        if text in line:
            return seen
    pytest.fail(f"the run ended without printing {text!r}: {''.join(seen)[-2000:]}")


def end_of(run: subprocess.Popen[str], seconds: float = 60) -> tuple[int, str]:
    """Exit code and the rest of what a run prints; it has to end by itself."""
    text, _ = run.communicate(timeout=seconds)
    return run.returncode, text


def weights(outputs: Path) -> bytes:
    (path,) = outputs.glob("*/model/model.safetensors")
    return path.read_bytes()


def error_of(text: str) -> str:
    (line,) = (line for line in text.splitlines() if line.startswith("error: "))
    assert "Traceback" not in text
    return line


@pytest.fixture
def quick(tiny) -> tuple[str, ...]:
    return (*tiny, "trainer.progress=lines", "finetune.final.epochs=2", "dataset.crop=pad")


@pytest.fixture(scope="module")
def whole(tiny, tmp_path_factory) -> Path:
    """The outputs of the quick run, undisturbed."""
    outputs = tmp_path_factory.mktemp("whole")
    more = ("trainer.progress=lines", "finetune.final.epochs=2", "dataset.crop=pad")
    done = warm.run(
        command(*tiny, *more, f"paths.outputs={outputs}"),
        env=environment(), cwd=ROOT, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return outputs


@pytest.fixture
def photos(tmp_path) -> Path:
    """Class folders with forty images."""
    root, random = tmp_path / "photos", np.random.default_rng(0)
    for part, count in (("train", 16), ("test", 4)):
        for name in ("cat", "dog"):
            (root / part / name).mkdir(parents=True)
            for number in range(count):
                pixels = random.integers(0, 256, (16, 16, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / part / name / f"{number:02}.png")
    return root


def on_photos(photos: Path, tiny: tuple[str, ...]) -> tuple[str, ...]:
    shared = [text for text in tiny if not text.startswith("dataset.")]
    return (
        *shared, "dataset=folder", f"dataset.root={photos}", "dataset.image_size=16",
        "dataset.num_workers=0", "finetune.batch_size=8", "schedule=oneshot",
    )  # fmt: skip


def test_killed_or_told_to_end_it_is_resumed_to_the_same_bits(
    start, process, quick, whole, tmp_path
):
    arguments = (*quick, f"paths.outputs={tmp_path}")
    for moment, told in (
        ("baseline: epoch 1/1", signal.SIGKILL), ("baseline: epoch 1/1", signal.SIGTERM),
        ("stage 2/3: features.3 keeps", signal.SIGTERM), ("features.7: epoch 1/2", signal.SIGKILL),
    ):  # fmt: skip
        run = start(*arguments)
        lines_until(run, moment)
        os.killpg(run.pid, told)
        code, text = end_of(run)
        if told == signal.SIGTERM:
            assert code == 143, text
            assert "stopped by SIGTERM: type the same command again to go on." in text
            assert "Traceback" not in text
    end = process(*arguments)
    assert end.returncode == 0, end.stderr
    assert "resuming after 2 of 3 steps" in end.stdout
    assert weights(tmp_path) == weights(whole)
    tables = [next(one.glob("*/metrics.csv")).read_text().splitlines() for one in (whole, tmp_path)]
    assert len(tables[0]) == len(tables[1]), "rows of killed attempts were kept or lost"


def test_a_second_run_in_the_same_folder_is_refused(
    start, type_, quick, whole, tmp_path, monkeypatch
):
    monkeypatch.setattr("thinet.run.lock.PATIENCE", 0.1)
    arguments = (*quick, f"paths.outputs={tmp_path}")
    first = start(*arguments)
    lines_until(first, "baseline: training")
    first.send_signal(signal.SIGSTOP)
    second = type_(*arguments)
    first.send_signal(signal.SIGCONT)
    assert second.code == 2
    assert f"is in use by process {first.pid} on " in second.err
    assert "wait for that run to end" in second.err
    code, text = end_of(first)
    assert code == 0, text
    assert weights(tmp_path) == weights(whole)
    assert not list(tmp_path.glob("*/.running.json"))


def test_two_runs_share_one_training_of_the_baseline(start, quick, tmp_path):
    runs = [start(*quick, f"ratio={r}", f"paths.outputs={tmp_path}") for r in (0.5, 0.75)]
    texts = []
    for run in runs:
        code, text = end_of(run)
        assert code == 0, text
        texts.append(text)
    assert "".join(texts).count("baseline: training vgg_small") == 1
    assert "".join(texts).count("baseline: trained before") == 1


def test_divergence_keeps_the_network_of_the_last_good_stage(type_, quick, tmp_path):
    outcome = type_(*quick, "finetune.final.lr=1e30", "keep_steps=true")
    assert outcome.code == 2
    message = error_of(outcome.err)
    assert "training diverged: the loss of epoch 1 is not finite" in message
    assert "has the network after 2 of 3 steps" in message
    (folder,) = (tmp_path / "outputs").glob("*/last_good")
    assert str(folder) in message
    network = thinet.load(folder)
    stage = thinet.artifacts.store.read_state(folder.parent / "steps/001/model.safetensors")
    assert all(torch.equal(tensor, stage[name]) for name, tensor in network.state_dict().items())
    kept = thinet.artifacts.store.read_spec(folder).keep
    state = json.loads((folder.parent / "state.json").read_text())
    assert kept == state["progress"]["kept"]
    assert [len(filters) for filters in kept.values()] == [2, 2]


def test_a_data_set_that_changed_between_attempts_is_refused(
    start, type_, process, photos, tiny, tmp_path
):
    arguments = (*on_photos(photos, tiny), "trainer.progress=lines", f"paths.outputs={tmp_path}")
    run = start(*arguments)
    lines_until(run, "baseline: test top-1")
    os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    victim = photos / "train/dog/07.png"
    content = victim.read_bytes()
    victim.unlink()
    refused = type_(*arguments)
    assert refused.code == 2
    assert "the data set has changed since this run began (train was 32 images" in refused.err
    assert "resume=off" in refused.err
    victim.write_bytes(content)
    assert type_(*arguments).code == 0
    victim.unlink()
    again = type_(*arguments, "resume=off")
    assert again.code == 0
    assert "the data set has changed since it was trained; training it again" in again.out


def test_unreadable_images_are_left_out_up_to_a_limit_and_listed(type_, photos, tiny, tmp_path):
    arguments = on_photos(photos, tiny)
    bad = [photos / name for name in ("train/cat/03.png", "test/dog/01.png")]
    for path in bad:
        path.write_bytes(path.read_bytes()[:60])
    refused = type_(*arguments)
    assert refused.code == 2
    message = error_of(refused.err)
    assert message.startswith("error: 2 of 40 images cannot be read, 0 may be: ")
    assert all(str(path) in message for path in bad)
    assert "type dataset.max_unreadable=0.05 " in message
    assert not [path for path in (tmp_path / "outputs").glob("*") if path.name[0] != "."]
    done = type_(*arguments, "dataset.max_unreadable=0.05")
    assert done.code == 0, done.err
    assert "is left out, 2 of at most 2" in done.out
    assert "2 images were left out, being unreadable: result.json lists them" in done.out
    (result,) = (tmp_path / "outputs").glob("*/result.json")
    assert json.loads(result.read_text())["run"]["unreadable_images"] == sorted(map(str, bad))


FILL = """
mount -t tmpfs -o size=60m none "$OUT" || exit 99
python="$1"; shift
for moment in "baseline: training" "stage 1/3: features.0 keeps"; do
  "$python" "$@" > "$OUT.log" 2>&1 &
  run=$!
  until grep -q "$moment" "$OUT.log"; do kill -0 $run || exit 98; done
  head -c 100m /dev/zero > "$OUT/filler" 2> /dev/null
  wait $run
  echo "code $?"; cat "$OUT.log"
  rm "$OUT/filler"
done
"$python" "$@" > "$OUT.log" 2>&1 || { cat "$OUT.log"; exit 97; }
cp "$OUT"/*/model/model.safetensors "$KEEP"
"""


@pytest.mark.skipif(
    subprocess.run(["unshare", "-Urm", "mount", "-t", "tmpfs", "none", "/mnt"], check=False,
                   capture_output=True).returncode != 0,
    reason="a disk of its own cannot be mounted here",
)  # fmt: skip
def test_a_full_disk_is_a_sentence_and_loses_nothing(quick, whole, tmp_path):
    out, keep = tmp_path / "disk", tmp_path / "kept.safetensors"
    out.mkdir()
    more = {"OUT": str(out), "KEEP": str(keep)}
    found = subprocess.run(
        ["unshare", "-Urm", "bash", "-c", FILL, "bash", *command(*quick, f"paths.outputs={out}")],
        env={**environment(), **more}, cwd=ROOT, capture_output=True, text=True, timeout=120,
        check=False,
    )  # fmt: skip
    assert found.returncode == 0, found.stdout + found.stderr
    for told in found.stdout.split("code ")[1:]:
        assert told.startswith("2\n")
        assert "No space left on device" in error_of(told)
    assert found.stdout.count("code 2\n") == 2
    assert keep.read_bytes() == weights(whole)


def children(pid: int) -> Iterator[int]:
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, IndexError):
            continue
        if parent == pid:
            yield int(folder.name)


def wait_for(condition: Callable[[], bool], seconds: float = 40) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it hangs"
        time.sleep(0.05)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_a_killed_rank_ends_the_others_and_the_run_is_resumed(start, process, tiny, tmp_path):
    shared = tuple(text for text in tiny if text != "trainer=cpu")
    quick = (
        *shared, "trainer=ddp_cpu", "trainer.progress=lines", "schedule=oneshot",
        "trainer.max_steps_per_epoch=12", "baseline.epochs=6",
    )  # fmt: skip
    outputs = {name: f"paths.outputs={tmp_path / name}" for name in ("undisturbed", "killed")}
    assert process(*quick, outputs["undisturbed"]).returncode == 0
    for victim, moment in (
        ("second", "baseline: epoch 1/6"),
        ("first", "stage 1/1: features.0 keeps"),
    ):
        run = start(*quick, outputs["killed"])
        lines_until(run, moment)
        (rank1,) = (
            p for p in children(run.pid) if "run.py" in Path(f"/proc/{p}/cmdline").read_text()
        )
        os.kill(rank1 if victim == "second" else run.pid, signal.SIGKILL)
        code, text = end_of(run)
        assert code == {"second": 2, "first": -signal.SIGKILL}[victim], text
        wait_for(lambda run=run: not members(run.pid))
        if victim == "second":
            assert "another process of this run has ended" in error_of(text)
    end = process(*quick, outputs["killed"])
    assert end.returncode == 0, end.stderr
    assert weights(tmp_path / "killed") == weights(tmp_path / "undisturbed")
