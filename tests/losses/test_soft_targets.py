"""Soft targets: the divergence of two networks' probabilities, by independent computations."""

from __future__ import annotations

import pytest
import torch
from scipy.special import softmax
from scipy.stats import entropy
from torch import Tensor, nn
from torch.autograd import gradcheck

from thinet.losses import soft_targets


def drawn(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(*shape, generator=generator, dtype=torch.float64)


STUDENT, TEACHER = drawn(6, 10), drawn(6, 10, seed=1)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0, 20.0])
def test_it_is_the_divergence_that_scipy_computes(temperature):
    probabilities = [softmax(one.numpy() / temperature, axis=1) for one in (TEACHER, STUDENT)]
    expected = temperature**2 * entropy(*probabilities, axis=1).mean()
    found = soft_targets(STUDENT, TEACHER, temperature)
    assert found.shape == ()
    assert found.item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_it_is_torchs_divergence(temperature):
    divergence = nn.KLDivLoss(reduction="batchmean")
    own = (STUDENT / temperature).log_softmax(1)
    expected = temperature**2 * divergence(own, (TEACHER / temperature).softmax(1))
    torch.testing.assert_close(soft_targets(STUDENT, TEACHER, temperature), expected)


def test_the_usual_temperature_is_4():
    assert torch.equal(soft_targets(STUDENT, TEACHER), soft_targets(STUDENT, TEACHER, 4.0))


def test_nothing_to_learn_from_a_twin():
    student = STUDENT.clone().requires_grad_()
    loss = soft_targets(student, STUDENT + 5, 4.0)  # a shift of all logits changes no probability
    loss.backward()
    assert loss.abs() < 1e-12
    assert student.grad.abs().max() < 1e-12


def test_it_has_a_direction():
    one, other = soft_targets(STUDENT, TEACHER, 1.0), soft_targets(TEACHER, STUDENT, 1.0)
    assert (one - other).abs() > 0.1


def gradient(temperature: float, scale: float = 1.0) -> Tensor:
    student = (scale * STUDENT).requires_grad_()
    soft_targets(student, scale * TEACHER, temperature).backward()
    return student.grad


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_the_gradient_by_hand(temperature):
    """``T (softmax(s / T) - softmax(t / T)) / N``: one factor T is the chain rule's."""
    own, theirs = ((one / temperature).softmax(1) for one in (STUDENT, TEACHER))
    torch.testing.assert_close(gradient(temperature), temperature * (own - theirs) / 6)


def test_the_gradient_keeps_its_size_at_high_temperatures():
    """Towards ``(s - t) / (N K)`` of centred logits (Hinton et al., section 2.1)."""
    centred = [one - one.mean(1, keepdim=True) for one in (STUDENT, TEACHER)]
    limit = (centred[0] - centred[1]) / (6 * 10)
    torch.testing.assert_close(gradient(1e4), limit, rtol=1e-2, atol=1e-4)
    torch.testing.assert_close(gradient(1e5), limit, rtol=1e-3, atol=1e-5)


def test_it_is_a_mean_over_images():
    twice = soft_targets(torch.cat([STUDENT, STUDENT]), torch.cat([TEACHER, TEACHER]), 4.0)
    torch.testing.assert_close(twice, soft_targets(STUDENT, TEACHER, 4.0))
    each = [soft_targets(STUDENT[i : i + 1], TEACHER[i : i + 1], 4.0) for i in range(6)]
    torch.testing.assert_close(torch.stack(each).mean(), soft_targets(STUDENT, TEACHER, 4.0))


def test_gradients_are_those_of_differences():
    student = STUDENT.clone().requires_grad_()
    assert gradcheck(lambda own: soft_targets(own, TEACHER, 3.0), [student])


def test_no_gradient_reaches_the_teacher():
    student, teacher = STUDENT.clone().requires_grad_(), TEACHER.clone().requires_grad_()
    soft_targets(student, teacher, 4.0).backward()
    assert teacher.grad is None
    assert student.grad.any()


def test_a_teacher_that_is_sure():
    """Probabilities that are zero in float32: no logarithm of them."""
    teacher = torch.tensor([[1e4, 0.0, -1e4]])
    student = torch.tensor([[-1e3, 0.0, 1e3]], requires_grad=True)
    loss = soft_targets(student, teacher, 1.0)
    loss.backward()
    assert loss.item() == pytest.approx(2000)
    assert torch.isfinite(student.grad).all()


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_in_float32_whatever_the_precision(half):
    student, teacher = STUDENT.to(half).requires_grad_(), TEACHER.to(half)
    expected = soft_targets(student.detach().double(), teacher.double(), 4.0)
    with torch.autocast("cpu", half):
        found = soft_targets(student, teacher, 4.0)
        mixed = soft_targets(student.float(), teacher, 4.0)
    assert found.dtype == mixed.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=0)
    torch.testing.assert_close(mixed.double(), expected, rtol=1e-5, atol=0)
    found.backward()
    assert student.grad.dtype == half
    assert student.grad.any()


def test_on_a_gpu(gpu):
    student, teacher = STUDENT.float(), TEACHER.float()
    with torch.autocast("cuda", torch.bfloat16):
        found = soft_targets(student.to(gpu), teacher.to(gpu), 4.0)
    assert found.device == gpu
    torch.testing.assert_close(found.cpu(), soft_targets(student, teacher, 4.0))


@pytest.mark.parametrize(
    ("student", "teacher", "temperature", "message"),
    [
        (STUDENT, TEACHER[:, :9], 4.0, r"logits of \(6, 10\) and \(6, 9\)"),
        (STUDENT, TEACHER[:5], 4.0, r"logits of \(6, 10\) and \(5, 10\)"),
        (STUDENT[0], TEACHER[0], 4.0, r"logits of \(10,\)"),
        (STUDENT, TEACHER, 0.0, "temperature=0.0 is not positive"),
        (STUDENT, TEACHER, -1.0, "temperature=-1.0 is not positive"),
        (STUDENT, TEACHER, float("nan"), "temperature=nan is not positive"),
    ],
)
def test_what_makes_no_sense(student, teacher, temperature, message):
    with pytest.raises(ValueError, match=message):
        soft_targets(student, teacher, temperature)
