"""Noise models that know the classes: labels move to a class that looks or is listed alike.

Same contract as :mod:`lightning_alignprune.functional.label_noise.symmetric`. Legend: ``N``
labels, ``C`` classes, ``n_c`` labels of class c.
"""

from collections.abc import Sequence

from torch import Tensor

from lightning_alignprune.functional.label_noise._draws import change_per_class, check_noise
from lightning_alignprune.functional.label_noise.symmetric import pairflip

CIFAR10_CONFUSIONS: dict[int, int] = {9: 1, 2: 0, 3: 5, 5: 3, 4: 7}
"""truck -> automobile, bird -> airplane, cat <-> dog, deer -> horse."""

# Fine ids are alphabetical, so neighbours in number are not neighbours in meaning: the table of
# the data set itself is needed. The position is the fine id.
CIFAR100_SUPERCLASSES: tuple[int, ...] = (
    *(4, 1, 14, 8, 0, 6, 7, 7, 18, 3, 3, 14, 9, 18, 7, 11, 3, 9, 7, 11),
    *(6, 11, 5, 10, 7, 6, 13, 15, 3, 15, 0, 11, 1, 10, 12, 14, 16, 9, 11, 5),
    *(5, 19, 8, 8, 15, 13, 14, 17, 18, 10, 16, 4, 17, 4, 2, 0, 17, 4, 18, 17),
    *(10, 3, 2, 12, 12, 16, 12, 1, 9, 19, 2, 10, 0, 1, 16, 12, 9, 13, 15, 13),
    *(16, 19, 2, 4, 6, 19, 5, 5, 8, 19, 18, 1, 2, 15, 6, 0, 17, 8, 14, 13),
)
"""Super-class of each of the 100 fine classes of CIFAR-100."""


def next_in_group(groups: Sequence[int]) -> tuple[int, ...]:
    """Map each class to the next one of its group, and the last of a group to its first.

    Args:
        groups: Group of each class; the position is the class.

    Returns:
        One class per class. A class that is alone in its group maps to itself.

    Example:
        >>> next_in_group([0, 1, 0, 1, 0])
        (2, 3, 4, 1, 0)
    """
    members: dict[int, list[int]] = {}
    for label, group in enumerate(groups):
        members.setdefault(group, []).append(label)
    following: dict[int, int] = {}
    for group_members in members.values():
        following.update(zip(group_members, group_members[1:] + group_members[:1], strict=True))
    return tuple(following[label] for label in range(len(groups)))


def asymmetric_cifar10(labels: Tensor, rate: float, seed: int) -> tuple[Tensor, Tensor]:
    """Confuse look-alike classes of CIFAR-10, exactly ``round(rate * n_c)`` of each.

    truck -> automobile, bird -> airplane, cat <-> dog, deer -> horse. The other five classes stay,
    so with balanced classes half of ``rate`` is the share of wrong labels overall.

    Args:
        labels: Shape (N,), integer class indices in the order of CIFAR-10.
        rate: Share of wrong labels in each of the five classes, in [0, 1].
        seed: Seed of a private generator.

    Returns:
        Noisy labels, shape (N,), dtype of ``labels``; mask, shape (N,), bool.

    Raises:
        ValueError: If the rate, the shape or a label is out of range.

    Example:
        >>> import torch
        >>> noisy, mask = asymmetric_cifar10(torch.arange(10), rate=1.0, seed=0)
        >>> noisy.tolist()
        [0, 1, 0, 5, 7, 3, 6, 7, 8, 1]
    """
    _, rate, seed = check_noise("asymmetric_cifar10", labels, 10, rate, seed)
    return change_per_class(labels, CIFAR10_CONFUSIONS, seed, lambda size: round(rate * size))


def asymmetric_cifar100(labels: Tensor, rate: float, seed: int) -> tuple[Tensor, Tensor]:
    """Move ``round(rate * n_c)`` of each fine class to the next fine class of its super-class.

    "Next" is by fine id and cyclic: 4 -> 30 -> 55 -> 72 -> 95 -> 4 (the aquatic mammals).

    Args:
        labels: Shape (N,), integer fine classes in the order of CIFAR-100.
        rate: Share of wrong labels in each class, in [0, 1].
        seed: Seed of a private generator.

    Returns:
        Noisy labels, shape (N,), dtype of ``labels``; mask, shape (N,), bool.

    Raises:
        ValueError: If the rate, the shape or a label is out of range.

    Example:
        >>> import torch
        >>> noisy, mask = asymmetric_cifar100(torch.tensor([4, 30, 95]), rate=1.0, seed=0)
        >>> noisy.tolist()
        [30, 55, 4]
    """
    _, rate, seed = check_noise("asymmetric_cifar100", labels, 100, rate, seed)
    following = dict(enumerate(next_in_group(CIFAR100_SUPERCLASSES)))
    return change_per_class(labels, following, seed, lambda size: round(rate * size))


def asymmetric_next(
    labels: Tensor, num_classes: int, rate: float, seed: int
) -> tuple[Tensor, Tensor]:
    """Move exactly ``round(rate * N)`` samples to the next class: ImageNet's asymmetric noise.

    The same draw as :func:`pairflip`; the name says which table of the literature is meant
    (20 % of ImageNet-1K, neighbours in WordNet order are often neighbours in meaning).

    Args:
        labels: Shape (N,), integer class indices.
        num_classes: C, at least 2; 1000 for ImageNet-1K.
        rate: Share of wrong labels, in [0, 1].
        seed: Seed of a private generator.

    Returns:
        Noisy labels, shape (N,), dtype of ``labels``; mask, shape (N,), bool.

    Raises:
        ValueError: If the rate, the shape or a label is out of range.

    Example:
        >>> import torch
        >>> noisy, mask = asymmetric_next(torch.full((5,), 999), 1000, rate=0.2, seed=0)
        >>> sorted(noisy.tolist())
        [0, 999, 999, 999, 999]
    """
    check_noise("asymmetric_next", labels, num_classes, rate, seed)
    return pairflip(labels, num_classes, rate, seed)
