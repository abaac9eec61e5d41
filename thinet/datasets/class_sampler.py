"""Batches of so many images of each of some classes, for losses that compare images in pairs.

In a shuffled batch of a data set of many classes hardly two images are of one class. Class-uniform
sampling draws classes, each as often as any other however many images it has, and then images of
them: where classes differ in size, an epoch re-weights them. The mean loss of an epoch is a mean
over classes, no longer one over images; an image of a small class is seen several times, and not
all of a large class are.

Source: CUR and SUR of Peng et al., Correlation Congruence for Knowledge Distillation, ICCV 2019
(arXiv:1904.01802), as summaries of that paper describe them: its own text was not at hand.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch

from thinet.datasets.sampler import EpochBatches, T, TrainingOrder
from thinet.datasets.sampler_checks import check_batches


class ClassUniform(EpochBatches):
    """Batches of ``k`` images of each of ``batch_size / k`` classes.

    A batch's classes are drawn uniformly without replacement. Within an epoch, the images of a
    class come in a shuffled order; when all have come they are shuffled anew, those that the batch
    has already behind the others. So no image is in a batch twice unless its class has fewer than
    ``k``, and then one comes at most once more than another; each time it is augmented in another
    way.

    A batch lies class by class, and a process takes a block of it: whole classes.

    Args:
        labels: The class of each training image.
        batch_size: Images a batch, over all processes; an epoch has as many batches as a shuffled
            one that drops an unfinished batch.
        order: What the batches of an epoch derive from.
        k: Images of each class; see :func:`~thinet.datasets.sampler_checks.images_per_class`.
        num_classes: How many classes there are; None takes them from the labels.

    Raises:
        ThinetError: See :func:`~thinet.datasets.sampler_checks.check_batches`.
    """

    of = "class"

    def __init__(
        self,
        labels: Sequence[int],
        batch_size: int,
        order: TrainingOrder,
        k: int | str = "auto",
        num_classes: int | None = None,
    ) -> None:
        super().__init__(labels, batch_size, order)
        classes = max(labels, default=-1) + 1 if num_classes is None else num_classes
        self.k = check_batches(labels, classes, batch_size, k, order.world, of=self.of)
        self.members: list[list[int]] = [[] for _ in range(classes)]
        for position, label in enumerate(labels):
            self.members[label].append(position)

    def __len__(self) -> int:
        return len(self.labels) // self.batch_size

    def batches(self, random: torch.Generator) -> list[list[int]]:
        """See :meth:`EpochBatches.batches`: class by class, ``k`` images each."""
        left: list[list[int]] = [[] for _ in self.members]
        found = []
        for _ in range(len(self)):
            classes = torch.randperm(len(self.members), generator=random)
            batch: list[int] = []
            for one in classes[: self.batch_size // self.k].tolist():
                batch += self._draw(self.members[one], left[one], random)
            found.append(batch)
        return found

    def share(self, batch: list[T]) -> list[T]:
        """This rank's block of a batch: whole classes."""
        size = len(batch) // self.order.world
        return batch[self.order.rank * size : (self.order.rank + 1) * size]

    def _draw(self, members: list[int], left: list[int], random: torch.Generator) -> list[int]:
        """``k`` images of a class.

        Args:
            members: All of the class.
            left: Those still to come, the next one last; changed in place.
            random: The epoch's.
        """
        drawn: list[int] = []
        while len(drawn) < self.k:
            if not left:
                order = torch.randperm(len(members), generator=random).tolist()
                times = Counter(drawn)
                left += sorted((members[at] for at in order), key=lambda image: -times[image])
            drawn.append(left.pop())
        return drawn


class SuperclassUniform(ClassUniform):
    """The same over superclasses, such as :func:`thinet.training.superclasses.superclasses` finds.

    Args:
        labels: The class of each training image.
        batch_size: See :class:`ClassUniform`; ``order`` and ``k`` too.
        order: As above.
        superclasses: The superclass of each training image, ``0, 1, ...``, none without an image.
        k: As above: images of each superclass.

    Raises:
        ThinetError: As above.
        ValueError: If there are not as many superclasses as labels.
    """

    of = "superclass"

    def __init__(
        self,
        labels: Sequence[int],
        batch_size: int,
        order: TrainingOrder,
        superclasses: Sequence[int],
        k: int | str = "auto",
    ) -> None:
        if len(superclasses) != len(labels):
            raise ValueError(f"{len(superclasses)} superclasses for {len(labels)} images")
        super().__init__(superclasses, batch_size, order, k)
