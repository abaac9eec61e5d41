"""What a method may read of a configuration, and what comes of a value that does not fit."""

from __future__ import annotations

import pytest
import torch

from thinet.base.errors import ThinetError
from thinet.pruning.criteria import Criterion
from thinet.pruning.criteria.l2 import L2
from thinet.pruning.stages import Phase
from thinet.run.settings import Settings, fill

L2_NODE = {"_target_": "thinet.pruning.criteria.l2.L2"}
SGD = {"_target_": "torch.optim.SGD", "momentum": 0.5}
CONFIG = {
    "seed": 7,
    "ratio": 0.5,
    "criterion": {"name": "l2", "build": L2_NODE},
    "finetune": {
        "stage": {"epochs": 2, "lr": 0.1, "decay": "step", "warmup": 0},
        "optimizer": SGD, "label_smoothing": 0.1, "clip_norm": None,
    },
    "secret": {"a": {"b": 1}},
}  # fmt: skip


def settings(*reads, **changes):
    return Settings({**CONFIG, **changes}, reads)


@pytest.mark.parametrize(
    "read",
    [
        lambda found: found["secret"],
        lambda found: found["secret.a.b"],
        lambda found: found.without("secret", "a"),
        lambda found: found.make("secret.a", Criterion),
        lambda found: found.phase("secret.a"),
        lambda found: found.training("secret"),
    ],
)
def test_what_is_not_among_the_reads_is_refused(read):
    with pytest.raises(ThinetError, match=r"secret is not among method\.reads"):
        read(settings("ratio", "criterion", "finetune"))


def test_what_is_among_them_is_given():
    found = settings("ratio", "secret")
    assert (found["ratio"], found["secret.a.b"], found.seed) == (0.5, 1, 7)
    assert found.without("secret", "a") == {}
    assert found.without("secret") == {"a": {"b": 1}}


def test_a_key_that_is_missing_is_an_error_of_its_own():
    with pytest.raises(KeyError, match="c"):
        settings("secret")["secret.c"]


def test_a_component_is_made_from_its_node():
    assert settings("criterion").make("criterion.build", Criterion) == L2()


@pytest.mark.parametrize(
    ("node", "words"),
    [
        ({"_target_": "os.system"}, r"^criterion\.build\._target_='os\.system' is refused"),
        ({"_target_": "thinet.pruning.reconstruction.scale.Scale"}, r"^criterion\.build\._target_"),
        ({**L2_NODE, "typo": 1}, r"thinet\.pruning\.criteria\.l2\.L2 cannot be made \(.*typo"),
        ({}, r"^criterion\.build\._target_"),
    ],
)
def test_what_cannot_be_made_is_one_sentence(node, words):
    given = settings("criterion", criterion={"name": "l2", "build": node})
    with pytest.raises(ThinetError, match=words) as caught:
        given.make("criterion.build", Criterion)
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith(".")


def test_a_phase_and_a_training_are_typed():
    found = settings("finetune")
    assert found.phase("finetune.stage") == Phase(2, 0.1, "step")
    training = found.training("finetune")
    assert (training.label_smoothing, training.clip_norm, training.head_factor) == (0.1, None, 1.0)
    group = training.make_optimizer([torch.nn.Parameter(torch.zeros(1))]).param_groups[0]
    assert (group["momentum"], group["lr"]) == (0.5, 1.0)


@pytest.mark.parametrize(
    ("optimizer", "words"),
    [
        ({**SGD, "momentum": -1}, r"^finetune\.optimizer: .*momentum"),
        ({**SGD, "typo": 1}, r"^finetune\.optimizer: .*typo"),
        ({"_target_": "torch.optim.Nothing"}, "Nothing"),
        ({"_target_": "torch.optim.lr_scheduler.StepLR"}, r"finetune\.optimizer\._target_"),
    ],
)
def test_an_optimizer_is_tried_before_any_long_work(optimizer, words):
    given = settings("finetune", finetune={**CONFIG["finetune"], "optimizer": optimizer})
    with pytest.raises(ThinetError, match=words) as caught:
        given.training("finetune")
    assert "\n" not in str(caught.value)


def test_values_that_do_not_fit_are_blamed_on_their_node():
    assert fill(Phase, {"epochs": 1, "lr": 0.1}, "a.b") == Phase(1, 0.1)
    with pytest.raises(ThinetError, match=r"^a\.b: .*'?epoch'?.*--cfg job shows its keys\.$"):
        fill(Phase, {"epoch": 1, "lr": 0.1}, "a.b")
    with pytest.raises(ThinetError, match=r"^epochs=-1"):
        fill(Phase, {"epochs": -1, "lr": 0.1}, "a.b")
