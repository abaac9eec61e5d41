"""``ratio=@file``: what is read, what is refused, and what makes two runs the same run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from thinet.app.config import build, check
from thinet.base.errors import ThinetError
from thinet.run.identity import fingerprint
from thinet.widths.ratio import read_ratio

ROOT = Path(__file__).parents[2]


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return f"@{path}"


def test_anything_else_comes_back_as_it_is():
    for ratio in (0.5, "half", {"features.*": 0.5}, None):
        assert read_ratio(ratio) is ratio


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("r.yaml", "# by hand\nfeatures.0: 0.5\nfeatures.*: 1\n0: 0.25\n"),
        ("r.json", '{"features.0": 0.5, "features.*": 1, "0": 0.25}'),
        ("r.txt", '{"features.0": 0.5, "features.*": 1, "0": 0.25}'),
    ],
)
def test_yaml_and_json_are_read_in_their_order(name, text, tmp_path):
    found = read_ratio(write(tmp_path / name, text))
    assert list(found.items()) == [("features.0", 0.5), ("features.*", 1), ("0", 0.25)]


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("r.yaml", "", "holds no mapping"),
        ("r.yaml", "- 0.5\n", "holds no mapping"),
        ("r.yaml", "{}", "holds no mapping"),
        ("r.yaml", "features.0: [0.5\n", "cannot be read"),
        ("r.json", "{'features.0': 0.5}", "cannot be read"),
        ("r.yaml", "features.0: 1.5\n", r"ratio=1\.5 for 'features\.0'"),
        ("r.yaml", "features.0:\n  ratio: 0.5\n", r"for 'features\.0' is not a number"),
        ("r.yaml", "features.0: true\n", "ratio=True"),
        ("r.yaml", "\tx: 1", "cannot be read"),
    ],
)
def test_a_bad_file_is_one_sentence_that_names_it(name, text, expected, tmp_path, compose):
    given = write(tmp_path / name, text)
    with pytest.raises(ThinetError, match=expected) as caught:
        check(compose(f"ratio={given}"))
    message = str(caught.value)
    assert name in message
    assert "\n" not in message
    assert message.endswith(".")
    assert "(1)" not in message


def test_bytes_that_are_no_text_are_refused(tmp_path):
    (tmp_path / "r.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ThinetError, match="cannot be read"):
        read_ratio(f"@{tmp_path / 'r.yaml'}")


def test_a_missing_file_is_refused(tmp_path, compose):
    with pytest.raises(ThinetError, match=r"none\.yaml does not exist: give a YAML or JSON file"):
        check(compose(f"ratio=@{tmp_path / 'none.yaml'}"))


def test_the_folder_of_a_run_stands_for_its_suggestion_or_for_its_widths(tmp_path):
    rows = [
        {"layer": "a", "filters_before": 8, "filters_after": 6},
        {"layer": "b", "filters_before": 10, "filters_after": 3},
        {"layer": "a", "filters_before": 6, "filters_after": 2},
    ]
    (tmp_path / "result.json").write_text(json.dumps({"details": {"pruning": {"layers": rows}}}))
    assert read_ratio(f"@{tmp_path}") == {"a": 0.25, "b": 0.3}
    write(tmp_path / "suggestion.yaml", "a: 0.5\n")
    assert read_ratio(f"@{tmp_path}") == {"a": 0.5}


def test_the_folder_of_a_search_stands_for_what_it_found(tmp_path):
    rows = [{"layers": ["a", "a.depthwise"], "full": 8, "found": 6},
            {"layers": ["b"], "full": 10, "found": 10}]  # fmt: skip
    (tmp_path / "result.json").write_text(json.dumps({"details": {"search": {"widths": rows}}}))
    assert read_ratio(f"@{tmp_path}") == {"a": 0.75, "a.depthwise": 0.75, "b": 1.0}


@pytest.mark.parametrize(
    "content",
    [
        None,
        "nothing",
        "[]",
        '{"details": {"pruning": {"layers": []}}}',
        '{"details": {"pruning": {"layers": [1]}}}',
        '{"details": {"toy": {}}}',
        '{"details": {"search": {"widths": [{"layers": ["a"], "full": 0, "found": 0}]}}}',
        '{"details": []}',
    ],
)
def test_any_other_folder_is_refused(content, tmp_path):
    if content is not None:
        (tmp_path / "result.json").write_text(content)
    with pytest.raises(ThinetError, match="is not the folder of a finished run"):
        read_ratio(f"@{tmp_path}")


def test_the_run_is_known_by_the_content_and_not_by_the_path(tmp_path, compose):
    one = write(tmp_path / "one.yaml", "features.0: 0.5\n")
    same = write(tmp_path / "same.json", '{"features.0": 0.5}')
    other = write(tmp_path / "other.yaml", "features.0: 0.25\n")
    first = compose(f"ratio={one}")
    assert fingerprint(first) == fingerprint(compose(f"ratio={same}"))
    assert fingerprint(first) == fingerprint(compose("ratio={features.0:0.5}"))
    assert fingerprint(first) != fingerprint(compose(f"ratio={other}"))
    assert first.name == compose(f"ratio={same}").name
    assert "-rmixed-" in first.name
    (tmp_path / "one.yaml").write_text("features.0: 0.75\n")
    assert fingerprint(first) not in (fingerprint(compose(f"ratio={same}")), "")


def test_the_method_and_the_result_have_the_mapping(tmp_path, compose):
    given = write(tmp_path / "r.yaml", "features.0: 0.5\nfeatures.3: 1.0\n")
    config = check(compose(f"ratio={given}"))
    assert config["ratio"] == {"features.0": 0.5, "features.3": 1.0}
    _, method = build(config)
    assert method.request.ratio == config["ratio"]


def test_torch_is_not_needed_to_refuse_a_file(tmp_path):
    script = (
        "import sys; from thinet.base.errors import ThinetError\n"
        "from thinet.widths.ratio import read_ratio\n"
        f"try: read_ratio('@{tmp_path}/none.yaml')\n"
        "except ThinetError: print('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"
