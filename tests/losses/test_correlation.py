"""Correlation congruence: the kernels' numbers, and what a loss of relations may not notice."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.spatial.distance import pdist, squareform
from torch import Tensor
from torch.autograd import gradcheck

from thinet.losses import KERNELS, correlation, correlation_congruence

KINDS = [("mmd", None), ("bilinear", None), *(("rbf", order) for order in (1, 2, 3, None))]
"""Kernels with the orders of their series."""


def drawn(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def pair(cosine: float) -> Tensor:
    """Two features of this cosine, of different lengths."""
    sine = math.sqrt(1 - cosine**2)
    return torch.tensor([[3.0, 0.0], [0.5 * cosine, 0.5 * sine]], dtype=torch.float64)


@pytest.mark.parametrize(
    ("cosine", "gamma", "order", "expected"),
    [
        (1, 0.2, 1, 0.938448), (1, 0.2, 2, 0.992074), (1, 0.2, 3, 0.999224),
        (1, 0.4, 1, 0.808792), (1, 0.4, 2, 0.952577), (1, 0.4, 3, 0.990920),
        (1, 0.8, 1, 0.524931), (1, 0.8, 2, 0.783358), (1, 0.8, 3, 0.921187),
        (-1, 0.4, 1, 0.089866), (-1, 0.4, 2, 0.233651), (-1, 0.4, 3, 0.195308),
        (1, 0.4, None, 1), (-1, 0.4, None, 0.201897), (1, 0.2, None, 1), (1, 0.8, None, 1),
        (0, 0.4, 2, 0.449329), (0, 0.4, None, 0.449329),
    ],
)  # fmt: skip
def test_numbers_of_the_series(cosine, gamma, order, expected):
    found = correlation(pair(cosine), "rbf", gamma, order)
    assert found[0, 1].item() == pytest.approx(expected, abs=6e-7)
    diagonal = correlation(pair(1), "rbf", gamma, order)[0, 1]  # of a feature with itself
    torch.testing.assert_close(found.diagonal(), diagonal.expand(2))


def test_the_default_is_the_series_of_order_2_at_gamma_0_4():
    features = drawn(6, 9)
    assert torch.equal(correlation(features), correlation(features, "rbf", 0.4, 2, True))
    other = drawn(6, 5, seed=1)
    expected = correlation_congruence(features, other, "rbf", 0.4, 2, True)
    assert torch.equal(correlation_congruence(features, other), expected)


BOUNDS = {
    1: 0.1913,
    2: 0.0475,
    3: 9.1e-3,
    4: 1.42e-3,
    5: 1.85e-4,
    6: 2.1e-5,
    7: 2.06e-6,
    8: 1.81e-7,
}


@pytest.mark.parametrize("order", BOUNDS)
def test_the_series_converges(order):
    """No further from the exact kernel than at a cosine of 1, where the gap is known."""
    features = drawn(8, 16)
    exact = correlation(features, "rbf", 0.4, None)
    gap = (correlation(features, "rbf", 0.4, order) - exact).abs().max().item()
    rest = 1 - sum(math.exp(-0.8) * 0.8**p / math.factorial(p) for p in range(order + 1))
    assert gap == pytest.approx(rest, rel=1e-6)  # the diagonal has it
    assert gap < BOUNDS[order]


@pytest.mark.parametrize("normalize", [True, False])
def test_the_exact_kernel_is_scipys(normalize):
    features = drawn(7, 5)
    used = features / features.norm(dim=1, keepdim=True) if normalize else features
    expected = torch.from_numpy(squareform(pdist(used.numpy(), "sqeuclidean"))).mul(-0.4).exp()
    torch.testing.assert_close(correlation(features, "rbf", 0.4, None, normalize), expected)


def test_the_series_of_features_of_any_length():
    """Each brings its own factor: the series converges to the exact kernel all the same."""
    features = 1.5 * drawn(6, 4)
    exact = correlation(features, "rbf", 0.4, None, normalize=False)
    torch.testing.assert_close(correlation(features, "rbf", 0.4, 60, normalize=False), exact)
    unit = features / features.norm(dim=1, keepdim=True)
    one, other = (correlation(unit, "rbf", 0.4, 2, normalize) for normalize in (True, False))
    torch.testing.assert_close(one, other)


def phi(x: Tensor, y: Tensor, kernel: str, gamma: float, order: int | None) -> float:
    """By the formulas, for two features of length 1 (MMD: of any)."""
    product = sum(float(a) * float(b) for a, b in zip(x, y, strict=True))
    if kernel == "mmd":
        return abs(sum(map(float, x)) / len(x) - sum(map(float, y)) / len(y))
    if kernel == "bilinear":
        return product
    if order is None:
        return math.exp(-gamma * sum(float(a - b) ** 2 for a, b in zip(x, y, strict=True)))
    return sum(
        math.exp(-2 * gamma) * (2 * gamma) ** p / math.factorial(p) * product**p
        for p in range(order + 1)
    )


@pytest.mark.parametrize(("kernel", "order"), KINDS)
@pytest.mark.parametrize("gamma", [0.4, 0.7])
def test_the_loss_is_the_double_sum(kernel, order, gamma):
    student, teacher = drawn(5, 6), drawn(5, 3, seed=1)
    units = [features / features.norm(dim=1, keepdim=True) for features in (student, teacher)]
    total = 0.0
    for i in range(5):
        for j in range(5):
            own, theirs = (phi(unit[i], unit[j], kernel, gamma, order) for unit in units)
            total += (own - theirs) ** 2
    found = correlation_congruence(student, teacher, kernel, gamma, order)
    assert found.item() == pytest.approx(total / 25, rel=1e-9)
    matrices = [correlation(one, kernel, gamma, order) for one in (student, teacher)]
    torch.testing.assert_close(found, torch.nn.functional.mse_loss(*matrices))


@pytest.mark.parametrize("kernel", ["mmd", "bilinear"])
def test_without_normalising(kernel):
    features = drawn(4, 3)
    found = correlation(features, kernel, normalize=False)
    for i in range(4):
        for j in range(4):
            expected = phi(features[i], features[j], kernel, 0.4, None)
            assert found[i, j].item() == pytest.approx(expected)


@pytest.mark.parametrize(("kernel", "order"), KINDS)
def test_laws(kernel, order):
    features, other = drawn(9, 6), drawn(9, 6, seed=1)
    matrix = correlation(features, kernel, order=order)
    assert matrix.shape == (9, 9)
    torch.testing.assert_close(matrix, matrix.T)
    assert correlation_congruence(features, features.clone(), kernel, order=order) == 0
    one, two = (
        correlation_congruence(*both, kernel, order=order)
        for both in ((features, other), (other, features))
    )
    torch.testing.assert_close(one, two)
    assert one > 1e-5


@pytest.mark.parametrize(("kernel", "order"), KINDS)
def test_what_the_loss_does_not_notice(kernel, order):
    student, teacher = drawn(9, 6), drawn(9, 6, seed=1)

    def loss(own: Tensor, theirs: Tensor = teacher) -> Tensor:
        return correlation_congruence(own, theirs, kernel, order=order)

    before, mixed = loss(student), torch.randperm(9, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(loss(student[mixed], teacher[mixed]), before)
    scale = torch.rand(9, 1, dtype=torch.float64) * 7 + 0.1
    torch.testing.assert_close(loss(student * scale), before)
    torch.testing.assert_close(loss(student[:, [3, 1, 5, 0, 2, 4]]), before)
    rotation = torch.linalg.qr(drawn(6, 6, seed=3))[0]
    if kernel == "mmd":
        assert (loss(student @ rotation) - before).abs() > 1e-4
    else:
        torch.testing.assert_close(loss(student @ rotation), before)


@pytest.mark.parametrize(("kernel", "order"), KINDS)
def test_what_it_has_to_notice(kernel, order):
    """The order of the student's images alone: else it compares other images."""
    teacher = drawn(9, 6)
    student = teacher + 0.01 * drawn(9, 6, seed=1)
    before = correlation_congruence(student, teacher, kernel, order=order)
    shuffled = correlation_congruence(student.roll(1, 0), teacher, kernel, order=order)
    assert shuffled > 10 * before


@pytest.mark.parametrize("kernel", ["mmd", "bilinear", "rbf"])
def test_lengths_matter_unless_normalised(kernel):
    features = drawn(5, 4)
    one = correlation(features, kernel, normalize=False)
    assert not torch.allclose(one, correlation(2 * features, kernel, normalize=False))


@pytest.mark.parametrize(("kernel", "order"), KINDS)
@pytest.mark.parametrize("normalize", [True, False])
def test_features_of_other_lengths(kernel, order, normalize):
    student, teacher = drawn(5, 4), drawn(5, 11, seed=1)
    found = correlation_congruence(student, teacher, kernel, 0.4, order, normalize)
    assert found.shape == ()
    assert found > 0
    wider = torch.cat([student, torch.zeros(5, 7, dtype=torch.float64)], dim=1)
    if kernel != "mmd":  # zeros change no product
        same = correlation_congruence(wider, teacher, kernel, 0.4, order, normalize)
        torch.testing.assert_close(found, same)


@pytest.mark.parametrize(("kernel", "order"), KINDS)
@pytest.mark.parametrize("normalize", [True, False])
def test_gradients_are_those_of_differences(kernel, order, normalize):
    student, teacher = drawn(5, 4).requires_grad_(), drawn(5, 3, seed=1)
    means = correlation(student.detach(), "mmd", normalize=normalize)
    assert means[~torch.eye(5, dtype=bool)].min() > 1e-3, "a tie, where the MMD has no gradient"

    def matrix(own: Tensor) -> Tensor:
        found = correlation(own, kernel, 0.4, order, normalize)
        return found - torch.diag(found.diagonal()) if kernel == "mmd" else found  # |0| on it

    assert gradcheck(matrix, [student])
    assert gradcheck(
        lambda own: correlation_congruence(own, teacher, kernel, 0.4, order, normalize), [student]
    )


@pytest.mark.parametrize(("kernel", "order"), KINDS)
def test_no_gradient_reaches_the_teacher(kernel, order):
    student, teacher = drawn(5, 4).requires_grad_(), drawn(5, 4, seed=1).requires_grad_()
    correlation_congruence(student, teacher, kernel, order=order).backward()
    assert teacher.grad is None
    assert student.grad.abs().sum() > 0
    with torch.no_grad():
        assert correlation_congruence(student, teacher, kernel, order=order) > 0


@pytest.mark.parametrize(("kernel", "order"), KINDS)
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("precision", [torch.float64, torch.float32, torch.bfloat16])
def test_gradients_are_finite_everywhere(kernel, order, normalize, precision):
    """For images with one feature, none, next to none, and a large one."""
    student, teacher = drawn(6, 4).to(precision), drawn(6, 4, seed=1).to(precision)
    student[1] = student[0]
    student[2] = 0
    student[3] = 1e-30
    student[4] *= 1e4 if normalize else 1
    teacher[1] = 0
    student.requires_grad_()
    loss = correlation_congruence(student, teacher, kernel, 0.4, order, normalize)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(student.grad).all()
    assert student.grad[0].abs().sum() > 0
    if normalize:
        assert not student.grad[2:4].any()  # no direction, no gradient


def test_a_feature_of_zeros_stays_one():
    features = drawn(3, 4)
    features[1] = 0
    assert correlation(features, "bilinear")[1].eq(0).all()


@pytest.mark.parametrize(("kernel", "order"), KINDS)
@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_in_float32_whatever_the_precision(kernel, order, half):
    student, teacher = drawn(16, 64).to(half), drawn(16, 32, seed=1).to(half)
    matrix = correlation(student.double(), kernel, order=order)
    expected = correlation_congruence(student.double(), teacher.double(), kernel, order=order)
    student.requires_grad_()
    with torch.autocast("cpu", half):
        found = correlation_congruence(student, teacher, kernel, order=order)
        own = correlation(student, kernel, order=order)
        full = correlation(student.detach().float(), kernel, order=order)
    assert found.dtype == own.dtype == full.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-9)
    for one in (own, full):
        torch.testing.assert_close(one.double(), matrix, rtol=1e-5, atol=1e-6)
    found.backward()
    assert student.grad.dtype == half
    assert student.grad.any()


def test_a_teacher_of_another_precision():
    student, teacher = drawn(5, 4), drawn(5, 4, seed=1).bfloat16()
    assert correlation_congruence(student, teacher).dtype == torch.float64


def test_on_a_gpu(gpu):
    student, teacher = drawn(5, 4).float(), drawn(5, 7, seed=1).float()
    for kernel in KERNELS:
        with torch.autocast("cuda", torch.bfloat16):
            found = correlation_congruence(student.to(gpu), teacher.to(gpu), kernel)
        assert found.device == gpu
        torch.testing.assert_close(found.cpu(), correlation_congruence(student, teacher, kernel))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kernel": "gauss"}, "kernel=gauss is none of mmd, bilinear, rbf"),
        ({"gamma": 0.0}, "gamma=0.0"),
        ({"gamma": float("nan")}, "gamma=nan"),
        ({"order": 0}, "order=0"),
    ],
)
def test_options_that_make_no_sense(options, message):
    with pytest.raises(ValueError, match=message):
        correlation(drawn(3, 4), **options)


def test_shapes_that_make_no_sense():
    with pytest.raises(ValueError, match=r"\(3, 4, 2, 2\) are no matrix"):
        correlation(drawn(3, 4, 2, 2))
    with pytest.raises(ValueError, match="features of 3 and of 4 images"):
        correlation_congruence(drawn(3, 4), drawn(4, 4))
