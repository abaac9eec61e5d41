"""The study of distillation: its order, its pairs, and that both sides of its timing do the same.

``test_smoke.py`` runs its whole command.
"""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

from experiments import cifar
from experiments.distillation_cifar10 import cost, run, tables
from experiments.distillation_cifar10.arms import FIVE, Arm, Course, School, arms
from thinet.engine.lesson import Lesson
from thinet.engine.objective import at_rest
from thinet.models.cifar_resnet import CifarResNet


def make(seed: int) -> CifarResNet:
    torch.manual_seed(seed)
    return CifarResNet(1, 10)


@pytest.fixture
def school(tmp_path: Path) -> School:
    return School(make(0), cifar.noise(64), tmp_path)


def test_a_seed_is_complete_before_the_next_and_peers_come_after_what_they_depend_on() -> None:
    todo = list(run.work(run.PARTS, [0, 1, 2], 100, 50))
    assert len(set(todo)) == len(todo)
    main = [task for task in todo if task.part in ("students", "pruned")]
    assert [task.seed for task in main] == sorted(task.seed for task in main)
    for seed in range(3):
        mine = [task.arm for task in main if task.seed == seed]
        assert mine == [*FIVE, "CE", "KD", "KD + CC"]
    places = {part: [k for k, task in enumerate(todo) if task.part == part] for part in run.PARTS}
    assert max(places["pruned"]) < min(places["peers"])
    assert {task.beta for task in todo if task.part in ("pruned", "peers")} == {50}
    others = {task.arm for task in todo if task.part == "kernels"}
    assert others == set(arms(100)) - set(FIVE)


def test_what_beta_is_chosen_by_is_no_result() -> None:
    todo = list(run.work(run.PARTS, [0, 1, 2], 100, 50))
    assert {task.seed for task in todo if task.part == "beta"} == {run.BETA_SEED}
    assert run.BETA_SEED not in {task.seed for task in todo if task.part != "beta"}


def test_test_images_are_not_looked_at_to_choose(school: School) -> None:
    found = school.figures(make(1), {"seconds": 1.0}, test=False)
    assert isinstance(found["val"], float)
    assert {value for name, value in found.items() if name.startswith("test")} == {""}
    assert list(found) == list(school.figures(make(1), {"seconds": 1.0}))


def test_the_better_lesson_is_the_better_one_on_validation_images() -> None:
    rows = [
        {"part": "pruned", "arm": arm, "seed": str(seed), "val": str(val), "test": str(test)}
        for arm, val, test in (("CE", 99, 99), ("KD", 80, 90), ("KD + CC", 81, 70))
        for seed in (0, 1)
    ]
    assert tables.better(rows) == "KD + CC"
    assert tables.better(rows[:4]) is None
    rows += [{"part": "pruned", "arm": "KD", "seed": "2", "val": "86", "test": "0"}]
    assert tables.better(rows) == "KD"


def test_differences_are_between_rows_of_one_seed() -> None:
    over = [{"seed": str(seed), "test": str(value)} for seed, value in ((0, 50), (2, 60), (3, 1))]
    under = [{"seed": str(seed), "test": str(value)} for seed, value in ((2, 57), (0, 49), (1, 9))]
    assert tables.paired(over, under) == [1, 3]
    assert tables.signed([1, 3]) == "+2.00 ± 1.41"
    assert tables.signed([-1.5]) == "-1.50"


def test_all_arms_see_the_same_images_in_the_same_order(school: School) -> None:
    """A lesson of labels alone ends where labels alone end."""
    course, start = Course(1, 48, 16, 0.05), make(1)
    made = {}
    for name, arm in (
        ("labels", Arm()),
        ("alpha", Arm(Lesson(alpha=1.0))),
        ("taught", Arm(Lesson())),
    ):
        made[name] = copy.deepcopy(start)
        school.train(made[name], arm, course, 0, "student")
    for key, value in made["labels"].state_dict().items():
        torch.testing.assert_close(value, made["alpha"].state_dict()[key], rtol=1e-4, atol=1e-5)
    weights = [one.linear.weight for one in (made["taught"], made["labels"], start)]
    assert not torch.allclose(weights[0], weights[1], atol=1e-4)
    assert not torch.allclose(weights[1], weights[2], atol=1e-4)


def test_a_network_agrees_with_itself(school: School) -> None:
    found = school.judge(school.teacher.network, "test")
    assert found["agreement"] == 100
    assert found["congruence"] == pytest.approx(0, abs=1e-9)
    logged = school.train(make(1), arms(100)["KD + CC"], Course(1, 16, 16, 0.1), 0, "student")
    shares = [logged[f"train/gradient_share_{term}"] for term in
              ("cross_entropy", "soft_targets", "correlation")]  # fmt: skip
    assert sum(shares) == pytest.approx(1, abs=1e-5)
    assert school.judge(make(1), "test")["congruence"] > 1e-8


def test_the_loop_by_hand_has_the_engines_loss_and_gradients() -> None:
    teacher, student = make(0).eval(), make(1).train()
    batch = torch.randn(8, 3, 32, 32), torch.arange(8)
    with at_rest([teacher]):
        both = []
        for one in (copy.deepcopy(student), copy.deepcopy(student)):
            loss = (
                cost.loss_by_engine(one, teacher)(batch)
                if not both
                else cost.loss_by_hand(one, teacher, batch)
            )
            loss.backward()
            both.append((loss.detach(), one.conv1.weight.grad, one.linear.weight.grad))
    for engines, hands in zip(*both, strict=True):
        torch.testing.assert_close(engines, hands, rtol=1e-4, atol=1e-5)
