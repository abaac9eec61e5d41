"""What a network says of images: every term by hand, and what it cannot look at."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.synthesis.parts import EVERYTHING, calm, equal
from thinet.base.errors import ThinetError
from thinet.engine.distilled import Pupil
from thinet.models.features import Feature
from thinet.synthesis.critic import Critic, mean_classes
from thinet.synthesis.settings import Losses

IMAGES = torch.randn(12, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def by_hand(teacher: nn.Sequential, images: torch.Tensor):
    """Logits, and the terms in the conventions of the authors' code."""
    x, apart = images, torch.zeros(())
    for layer in list(teacher)[:-1]:
        if isinstance(layer, nn.BatchNorm2d):
            mean = x.mean((0, 2, 3))
            variance = (x - mean[:, None, None]).square().mean((0, 2, 3))
            apart = apart + (mean - layer.running_mean).norm()
            apart = apart + (variance - layer.running_var).norm()
        x = layer(x)
    logits = teacher[-1](x)
    mean = F.softmax(logits, 1).mean(0)
    return logits, {
        "one_hot": -logits.log_softmax(1).max(1).values.mean(),
        "activation": -x.abs().mean(),
        "entropy": (mean * mean.log10()).sum(),
        "batchnorm": apart,
    }


def test_every_term_and_its_gradient(critic):
    teacher = calm(critic.network)
    critic = replace(critic, teacher=replace(critic.teacher, network=teacher))
    before = copy.deepcopy(teacher)
    ours, theirs = IMAGES.clone().requires_grad_(), IMAGES.clone().requires_grad_()
    logits, found = critic.judge(ours)
    expected, wanted = by_hand(teacher, theirs)
    torch.testing.assert_close(logits, expected)
    assert found.keys() == wanted.keys()
    for name, term in found.items():
        torch.testing.assert_close(term, wanted[name], msg=name)
        (own,) = torch.autograd.grad(term, ours, retain_graph=True)
        (other,) = torch.autograd.grad(wanted[name], theirs, retain_graph=True)
        assert bool(own.any()), name
        torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-6, msg=name)
    assert equal(teacher, before)
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_conventions_are_those_that_were_asked_for(critic):
    teacher = calm(critic.network)
    paper = replace(
        EVERYTHING, base=2.718281828459045, entropy_reduction="mean", activation_reduction="sum"
    )
    _, code = Critic(Pupil(teacher, critic.teacher.feature), EVERYTHING).judge(IMAGES)
    _, found = Critic(Pupil(teacher, critic.teacher.feature), paper).judge(IMAGES)
    ln10 = torch.tensor(10.0).log()
    torch.testing.assert_close(found["entropy"] * 10 / ln10, code["entropy"])
    torch.testing.assert_close(found["activation"] / 54, code["activation"])
    assert torch.equal(found["one_hot"], code["one_hot"])


def test_statistics_are_gathered_only_where_they_count(teacher):
    critic = Critic(Pupil(calm(teacher), None), Losses(activation=0))
    _, terms = critic.judge(IMAGES)
    assert terms.keys() == {"one_hot", "activation", "entropy"}
    assert terms["activation"] == 0, "there are no features to watch"


def test_what_cannot_be_looked_at():
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, 10))
    feature = Feature("1", 192)
    with pytest.raises(ThinetError, match=r"none: type synthesis\.losses\.batchnorm=0\."):
        Critic(Pupil(network, feature), EVERYTHING)
    with pytest.raises(ThinetError, match=r"feature=<module>, or synthesis\.losses\.activation=0"):
        Critic(Pupil(network, None), Losses())
    Critic(Pupil(network, feature), Losses())
    forgetful = nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False), network)
    with pytest.raises(ThinetError, match="has none"):
        Critic(Pupil(forgetful, feature), EVERYTHING)


def test_mean_of_probabilities_not_of_logits():
    logits = torch.tensor([[100.0, 0.0], [0.0, 0.1]]).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = mean_classes(logits)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, logits.float().softmax(1).mean(0))
    assert found[0] > 0.7
