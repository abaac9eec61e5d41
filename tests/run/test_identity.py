"""What makes two runs the same run, and what a run is called."""

from __future__ import annotations

from pathlib import Path

import pytest
from omegaconf import OmegaConf, open_dict

from thinet.app.config import check
from thinet.run.identity import fingerprint, part_read, plain, settings_of

CONF = Path(__file__).parents[2] / "conf"
GROUPS = sorted(path.name for path in CONF.iterdir() if path.is_dir() and path.name != "sweep")
METHODS = sorted(path.stem for path in (CONF / "method").glob("*.yaml"))
OF_ALL = ["seed=1", "model=resnet20", "dataset=fashion_mnist", "baseline.lr=0.2",
          "trainer.precision=bf16-mixed", "model.weights=DEFAULT",
          "evaluate=retrieval"]  # fmt: skip
CHOICE = ["criterion=apoz", "reconstruction=refit", "reconstruction.recalibrate_bn=never",
          "calibration.locations=11", "calibration.source=noise",
          "dataset.calibration_per_class=3"]  # fmt: skip
WIDTHS = ["ratio=0.4", "ratio={features.0:0.5}", "target=flops:0.5", "allocation=error",
          "+layer_ratio.0=0.5"]  # fmt: skip
LAYERS = ["layers=all", "round_to=4"]
RECOVERY = ["schedule=oneshot", "finetune.stage.lr=0.5", "finetune.final.epochs=9",
            "finetune.optimizer.momentum=0.8"]  # fmt: skip
LEARNING = ["distill=kd", "sampler=class_uniform"]
BINARY = ["quantizer=xnor", "quantizer.clip=2.0", "binary_training=one_step",
          "binary_training.weights.lr=0.5"]  # fmt: skip
DRAWN = ["synthesis=paper", "synthesis.course.epochs=3", "synthesis.losses.entropy=2",
         "synthesis.student.lr=0.1"]  # fmt: skip
TAUGHT = ["model@teacher=resnet20"]
SEARCHED = ["search=paper", "search.generations=3", "search.calibration=64", "proxy=shared",
            "proxy.lr=0.2", "proxy.build.norms=one"]  # fmt: skip
READ = {
    "prune": CHOICE + WIDTHS + LAYERS + RECOVERY + LEARNING,
    "scratch": WIDTHS + LAYERS + RECOVERY + LEARNING,
    "sensitivity": CHOICE + LAYERS,
    "train": LEARNING,
    "distill": LEARNING + TAUGHT,
    "binarize": LAYERS[:1] + BINARY + LEARNING,
    "datafree": DRAWN + TAUGHT,
    "metaprune": SEARCHED + LEARNING + ["target=params:0.4", "layers=inner"],
}
EVERYTHING = CHOICE + WIDTHS + LAYERS + RECOVERY + LEARNING + BINARY + DRAWN + TAUGHT + SEARCHED
CASES = [(method, override) for method in METHODS for override in READ[method]]


@pytest.mark.parametrize(("method", "override"), CASES)
def test_a_setting_that_the_method_reads_counts(method, override, compose):
    usual, other = compose(f"method={method}"), compose(f"method={method}", override)
    assert fingerprint(usual) != fingerprint(other)
    assert usual.name != other.name


@pytest.mark.parametrize("method", METHODS)
def test_all_that_the_method_does_not_read_counts_for_nothing(method, compose):
    others = [override for override in EVERYTHING if override not in READ[method]]
    usual, other = compose(f"method={method}"), compose(f"method={method}", *others)
    assert others
    assert fingerprint(usual) == fingerprint(other)
    assert usual.name == other.name


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("override", OF_ALL)
def test_what_every_method_reads_counts_for_all(method, override, compose):
    usual, other = compose(f"method={method}"), compose(f"method={method}", override)
    assert fingerprint(usual) != fingerprint(other)


@pytest.mark.parametrize("method", METHODS)
def test_that_test_images_are_classified_goes_without_saying(method, compose):
    usual, found = compose(f"method={method}"), compose(f"method={method}", "evaluate=retrieval")
    without = compose(f"method={method}")
    with open_dict(without):
        del without.evaluate
    assert fingerprint(usual) == fingerprint(without)
    assert "evaluate" not in settings_of(plain(usual))
    assert settings_of(plain(found))["evaluate"] == "retrieval"


def test_methods_are_told_apart(compose):
    assert len({fingerprint(compose(f"method={one}")) for one in METHODS}) == len(METHODS)
    usual = fingerprint(compose("method=sensitivity"))
    assert usual != fingerprint(compose("method=sensitivity", "method.trials=3"))


def added(cfg, group, value):
    """The configuration with a key more in a group."""
    with open_dict(cfg):
        if cfg.get(group) is None:
            cfg[group] = {}
        OmegaConf.update(cfg, f"{group}.brand_new", value, force_add=True)
    return cfg


@pytest.mark.parametrize("unset", [None, False, {}, []], ids=repr)
@pytest.mark.parametrize("group", GROUPS)
def test_a_new_key_that_is_not_set_changes_no_fingerprint(group, unset, compose):
    for method in METHODS:
        cfg = compose(f"method={method}")
        before = fingerprint(cfg)
        assert fingerprint(added(cfg, group, unset)) == before, method


@pytest.mark.parametrize("group", GROUPS)
def test_a_new_key_that_is_set_changes_that_of_its_readers_alone(group, compose):
    common = {"model", "dataset", "baseline", "trainer", "method"}
    for method in METHODS:
        cfg = compose(f"method={method}")
        before = fingerprint(cfg)
        reads = group in common or group in cfg.method.reads
        if group == "synthesis" and method != "datafree":
            reads = False  # unless images are drawn: see tests/pruning/test_sources.py
        assert (fingerprint(added(cfg, group, 3)) != before) == reads, (method, group)


def test_the_usual_control_goes_without_saying(compose):
    told = settings_of(plain(compose("method=datafree")))
    assert "method.controls" not in told
    fewer, usual = compose("method=datafree", "method.controls=[]"), compose("method=datafree")
    assert fingerprint(fewer) != fingerprint(usual)


@pytest.mark.parametrize("unset", ["null", "false", "{}", "[]"])
def test_a_new_key_at_the_top_that_is_not_read_changes_nothing(unset, compose):
    assert fingerprint(compose(f"+brand_new={unset}")) == fingerprint(compose())
    assert fingerprint(compose("+brand_new=3")) == fingerprint(compose())


def test_zero_is_a_value(compose):
    assert fingerprint(added(compose(), "finetune", 0)) != fingerprint(compose())


@pytest.mark.parametrize("key", ["label", "sizes"])
def test_how_a_method_is_named_changes_no_fingerprint(key, compose):
    cfg = compose()
    before = fingerprint(cfg)
    with open_dict(cfg):
        cfg.method[key] = ["ratio"] if key == "sizes" else "x"
    assert fingerprint(cfg) == before


# -- names


def test_a_training_bears_nothing_of_pruning(compose):
    cfg = compose("method=train", "ratio=0.3", "criterion=apoz", "seed=4")
    assert cfg.name == f"vgg_small-digits-train-s4-{fingerprint(cfg)}"


@pytest.mark.parametrize(
    ("overrides", "beginning"),
    [
        (["ratio=0.3", "criterion=apoz"], "vgg_small-digits-prune-apoz-scale-layerwise-r0.3-s0-"),
        (["target=flops:0.5"], "vgg_small-digits-prune-thinet-scale-layerwise-flops0.5-s0-"),
        (["target=macs:1.5M"], "vgg_small-digits-prune-thinet-scale-layerwise-macs1.5M-s0-"),
        (["target=latency:9us"], "vgg_small-digits-prune-thinet-scale-layerwise-latency9us-s0-"),
        (["ratio={features.0:0.5}"], "vgg_small-digits-prune-thinet-scale-layerwise-rmixed-s0-"),
        (["method=scratch", "criterion=apoz"], "vgg_small-digits-scratch-layerwise-r0.5-s0-"),
        (["method=sensitivity", "ratio=0.1"], "vgg_small-digits-sensitivity-thinet-scale-s0-"),
    ],
)
def test_a_name_says_what_was_done(overrides, beginning, compose):
    cfg = compose(*overrides)
    assert cfg.name == beginning + fingerprint(cfg)


# -- records


@pytest.mark.parametrize("method", METHODS)
def test_the_record_holds_what_is_read_and_nothing_else(method, compose):
    config = check(compose(f"method={method}"))
    reads = config["method"]["reads"]
    common = {"model", "dataset", "baseline", "seed", "trainer", "method", "evaluate"}
    found = part_read(config)
    drawn = set() if method == "datafree" else {"synthesis"}  # read where images are drawn
    assert set(found) == common | (set(reads) - drawn)
    assert ("calibration_per_class" in found["dataset"]) == ("calibration" in reads)
    assert "recipe" not in found["dataset"]
    short = {key for key in settings_of(config) if not key.startswith("method.")}
    assert short <= set(reads)


def test_settings_in_short(compose):
    config = check(compose("criterion=apoz", "target=flops:0.5", "finetune=none"))
    found = settings_of(config)
    assert (found["criterion"], found["reconstruction"], found["schedule"]) == (
        "apoz", "scale", "layerwise",
    )  # fmt: skip
    assert (found["target"], found["finetune"]) == ("flops:0.5", "none")
    assert "ratio" not in found, "the target goes before it"
    assert {"layers", "allocation", "round_to"}.isdisjoint(found), "they go without saying"
    assert "layer_ratio" not in found, "it is not set"
    assert "calibration" not in found, "a group of numbers"
    assert settings_of(check(compose("method=train"))) == {}


def test_what_is_asked_for_the_record_is_not_changed_by_it(compose):
    config = plain(compose())
    before = repr(config)
    part_read(config)
    settings_of(config)
    assert repr(config) == before


def test_the_order_of_globs_counts(compose, tmp_path):
    (tmp_path / "a.yaml").write_text("'*.0': 0.25\nfeatures.*: 0.5\n")
    (tmp_path / "b.yaml").write_text("features.*: 0.5\n'*.0': 0.25\n")
    marks = {fingerprint(compose(f"ratio=@{tmp_path}/{name}.yaml")) for name in "ab"}
    assert len(marks) == 2


def test_false_is_not_the_same_as_left_out_where_a_class_is_made(compose):
    same = ["reconstruction=refit", "reconstruction.build.intercept=false"]
    assert fingerprint(compose(*same)) != fingerprint(
        compose("reconstruction=refit", "~reconstruction.build.intercept")
    )


def test_what_a_method_has_of_its_own_is_told(compose):
    config = check(compose("method=scratch", "method.epochs=7"))
    assert settings_of(config)["method.epochs"] == 7
    assert "method.epochs" not in settings_of(check(compose("method=scratch")))
