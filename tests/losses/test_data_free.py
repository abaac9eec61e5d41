"""What images are drawn for: units, both conventions, and that no gradient is ever lost."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from thinet.losses import (
    activation,
    batchnorm_statistics,
    discrepancy,
    information_entropy,
    one_hot,
)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("classes", [2, 10, 100])
def test_how_sure_a_network_is(classes):
    undecided = torch.zeros(4, classes, dtype=torch.float64)
    assert one_hot(undecided).item() == pytest.approx(math.log(classes), rel=1e-12)
    certain = undecided.clone()
    certain[range(4), [0, 1, 1, 0]] = 1e4
    assert one_hot(certain).item() == 0
    logits = drawn(4, classes)
    best = [row.exp().max() / row.exp().sum() for row in logits]
    assert one_hot(logits).item() == pytest.approx(-sum(map(math.log, best)) / 4, rel=1e-10)


@pytest.mark.parametrize("classes", [2, 10, 100])
def test_entropy_of_equally_frequent_classes_and_of_a_single_one(classes):
    equal = torch.full((classes,), 1 / classes, dtype=torch.float64)
    assert information_entropy(equal).item() == pytest.approx(-math.log10(classes), rel=1e-12)
    single = torch.eye(classes, dtype=torch.float64)[1]
    assert information_entropy(single).item() == 0
    assert information_entropy(equal) < information_entropy(drawn(classes).softmax(0)) < 0


def test_entropy_in_both_conventions():
    """The paper's formula has natural logarithms and a factor 1 / K, its code neither."""
    mean = drawn(10).softmax(0)
    code = information_entropy(mean)
    paper = information_entropy(mean, math.e, "mean")
    assert code.item() == pytest.approx(sum(p * math.log10(p) for p in mean.tolist()), rel=1e-12)
    assert paper.item() == pytest.approx(sum(p * math.log(p) for p in mean.tolist()) / 10, 1e-12)
    assert (10 / math.log(10) * paper).item() == pytest.approx(code.item(), rel=1e-12)


@pytest.mark.parametrize("kind", [torch.float32, torch.float64, torch.float16])
def test_entropy_where_a_class_has_probability_0(kind):
    logits = torch.tensor([[0.0, 0.0, -1e4], [5.0, 0.0, -1e4]], dtype=kind, requires_grad=True)
    mean = logits.softmax(1).mean(0)
    assert mean[2] == 0
    loss = information_entropy(mean)
    loss.backward()
    p = (0.5 + 1 / (1 + math.exp(-5))) / 2
    wanted = p * math.log10(p) + (1 - p) * math.log10(1 - p)
    assert loss.item() == pytest.approx(wanted, rel=1e-3 if kind == torch.float16 else 1e-6)
    assert bool(torch.isfinite(logits.grad).all())
    assert bool(logits.grad[:, :2].any())
    probability = torch.tensor([0.0, 1.0], dtype=kind, requires_grad=True)
    information_entropy(probability).backward()
    assert bool(torch.isfinite(probability.grad).all())
    assert probability.grad[0] < 0, "the class that never comes must become more frequent"


def test_size_of_features_in_both_conventions():
    features = torch.tensor([[3.0, -4.0], [0.5, 0.0]])
    assert activation(features).item() == -7.5 / 4
    assert activation(features, "sum").item() == -7.5 / 2
    assert activation(torch.zeros(2, 3)).item() == 0


def test_distance_of_statistics():
    found = [(torch.tensor([3.0, 0.0]), torch.tensor([1.0, 1.0])), (torch.ones(1), torch.ones(1))]
    stored = [(torch.tensor([0.0, 4.0]), torch.tensor([1.0, 1.0])), (torch.ones(1), torch.zeros(1))]
    assert batchnorm_statistics(found, stored).item() == 5 + 0 + 0 + 1  # norms, not their squares
    same = torch.ones(3, requires_grad=True)
    batchnorm_statistics([(same, same)], [(torch.ones(3), torch.ones(3))]).backward()
    assert not bool(same.grad.any()), "a norm of 0 has a gradient that is no number"


def test_discrepancy_is_that_of_logits():
    teacher, student = torch.tensor([[1.0, -2.0]]), torch.tensor([[0.0, 2.0]])
    assert discrepancy(teacher, student).item() == 2.5
    assert discrepancy(teacher, teacher).item() == 0


def test_gradients():
    logits = drawn(5, 4).requires_grad_()
    assert gradcheck(one_hot, logits)
    for base, reduction in ((10.0, "sum"), (math.e, "mean")):
        assert gradcheck(
            lambda x, b=base, r=reduction: information_entropy(x.softmax(1).mean(0), b, r), logits
        )
        assert gradcheck(lambda x, r=reduction: activation(x, r), logits)
    assert gradcheck(discrepancy, (logits, drawn(5, 4, seed=1).requires_grad_()))
    assert gradcheck(
        lambda m, v: batchnorm_statistics([(m, v)], [(drawn(3, seed=2), drawn(3, seed=3))]),
        (drawn(3).requires_grad_(), drawn(3, seed=1).requires_grad_()),
    )


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_halves_are_computed_in_full_and_autocast_is_not_let_in(kind):
    logits, other = drawn(64, 10).to(kind), drawn(64, 10, seed=1).to(kind)
    mean = logits.float().softmax(1).mean(0).to(kind)
    pair = [(logits[0], other[0].abs())]
    losses = {
        "one_hot": lambda cast: one_hot(cast(logits)),
        "activation": lambda cast: activation(cast(logits)),
        "entropy": lambda cast: information_entropy(cast(mean)),
        "batchnorm": lambda cast: batchnorm_statistics(
            [(cast(a), cast(b)) for a, b in pair], [(cast(other[1]), cast(other[2]))]
        ),
        "discrepancy": lambda cast: discrepancy(cast(logits), cast(other)),
    }
    for name, loss in losses.items():
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = loss(lambda one: one)
        assert found.dtype == torch.float32, name
        assert torch.equal(found, loss(Tensor.float)), name


def test_bad_arguments():
    for call, said in (
        (lambda: activation(torch.ones(2, 2), "max"), "reduction=max is neither mean nor sum"),
        (lambda: information_entropy(torch.ones(2), reduction="max"), "reduction=max"),
        (lambda: information_entropy(torch.ones(2), base=1.0), r"base=1\.0"),
        (lambda: information_entropy(torch.ones(2), base=math.nan), "base=nan"),
        (lambda: batchnorm_statistics([], []), "0 layers"),
        (lambda: batchnorm_statistics([(torch.ones(1),) * 2], []), "compared with 0"),
        (lambda: discrepancy(torch.ones(2, 3), torch.ones(2, 1)), r"logits of \(2, 3\)"),
    ):
        with pytest.raises(ValueError, match=said):
            call()
