"""Noise models that know no classes: any label may become any other, or its neighbour.

Legend: ``N`` labels, ``C`` classes. Every function returns ``(noisy labels, mask)`` where the mask
is true exactly where the label changed. Draws come from a private generator; the global one is
not touched.
"""

import math

import torch
from torch import Tensor

from lightning_alignprune.functional.label_noise._draws import (
    change,
    change_per_class,
    check_noise,
    noise_generator,
    share_of_all,
)


def symmetric_uniform(
    labels: Tensor, num_classes: int, rate: float, seed: int
) -> tuple[Tensor, Tensor]:
    """Give exactly ``round(rate * N)`` random samples a uniformly drawn other class.

    What the literature's tables mean by "symmetric" noise.

    Args:
        labels: Shape (N,), integer class indices.
        num_classes: C, at least 2.
        rate: Share of wrong labels, in [0, 1].
        seed: Seed of a private generator; the global one is not touched.

    Returns:
        Noisy labels, shape (N,), dtype of ``labels``; mask, shape (N,), bool.

    Raises:
        ValueError: If the rate, the shape or a label is out of range.

    Example:
        >>> noisy, mask = symmetric_uniform(torch.arange(10) % 5, 5, rate=0.4, seed=0)
        >>> int(mask.sum()), bool((noisy[mask] == (torch.arange(10) % 5)[mask]).any())
        (4, False)
    """
    num_classes, rate, seed = check_noise("symmetric_uniform", labels, num_classes, rate, seed)
    generator = noise_generator(seed)
    wrong = share_of_all(labels, rate, generator)
    offset = torch.randint(1, num_classes, (len(wrong),), generator=generator)
    return change(labels, wrong, (labels[wrong].long() + offset.to(labels.device)) % num_classes)


def symmetric_inclusive(
    labels: Tensor, num_classes: int, rate: float, seed: int
) -> tuple[Tensor, Tensor]:
    """Give ``round(rate * N)`` random samples a class drawn from all C, the right one included.

    One draw in C hits the right class, so about ``rate * (C - 1) / C`` of the labels end wrong
    (0.5 -> 0.45 with ten classes): the convention of DivideMix and SOP.

    Args:
        labels: Shape (N,), integer class indices.
        num_classes: C, at least 2.
        rate: Share of redrawn labels, in [0, 1].
        seed: Seed of a private generator.

    Returns:
        Noisy labels, shape (N,), dtype of ``labels``; mask, shape (N,), bool.

    Raises:
        ValueError: If the rate, the shape or a label is out of range.

    Example:
        >>> noisy, mask = symmetric_inclusive(torch.zeros(1000, dtype=torch.long), 2, 1.0, seed=0)
        >>> 400 < int(mask.sum()) < 600
        True
    """
    num_classes, rate, seed = check_noise("symmetric_inclusive", labels, num_classes, rate, seed)
    generator = noise_generator(seed)
    wrong = share_of_all(labels, rate, generator)
    drawn = torch.randint(0, num_classes, (len(wrong),), generator=generator)
    return change(labels, wrong, drawn)


def symmetric_next(
    labels: Tensor, num_classes: int, rate: float, seed: int
) -> tuple[Tensor, Tensor]:
    """Move ``floor(rate * n_c)`` random members of every class c to ``(c + 1) mod C``.

    Some texts call this symmetric. It is not: from a rate of 0.5 on, the majority of a class
    carries one and the same wrong label, and no method can tell which label is the right one.

    Args:
        labels: Shape (N,), integer class indices.
        num_classes: C, at least 2.
        rate: Share of wrong labels in each class, in [0, 1].
        seed: Seed of a private generator.

    Returns:
        Noisy labels, shape (N,), dtype of ``labels``; mask, shape (N,), bool.

    Raises:
        ValueError: If the rate, the shape or a label is out of range.

    Example:
        >>> noisy, mask = symmetric_next(torch.tensor([0, 0, 0, 1, 1]), 2, rate=0.5, seed=0)
        >>> int(mask[:3].sum()), int(mask[3:].sum())
        (1, 1)
    """
    num_classes, rate, seed = check_noise("symmetric_next", labels, num_classes, rate, seed)
    following = {label: (label + 1) % num_classes for label in range(num_classes)}
    # 0.29 * 100 is 28.999... in binary; the user's 29 % of 100 is 29.
    return change_per_class(labels, following, seed, lambda size: math.floor(rate * size + 1e-9))


def pairflip(labels: Tensor, num_classes: int, rate: float, seed: int) -> tuple[Tensor, Tensor]:
    """Move exactly ``round(rate * N)`` random samples to the next class, ``c -> (c + 1) mod C``.

    Parity: the Co-teaching code draws each sample on its own with probability ``rate``, always
    with the same random state; here the count is exact and the seed is yours.

    Args:
        labels: Shape (N,), integer class indices.
        num_classes: C, at least 2.
        rate: Share of wrong labels, in [0, 1].
        seed: Seed of a private generator.

    Returns:
        Noisy labels, shape (N,), dtype of ``labels``; mask, shape (N,), bool.

    Raises:
        ValueError: If the rate, the shape or a label is out of range.

    Example:
        >>> noisy, mask = pairflip(torch.zeros(4, dtype=torch.long), 3, rate=0.5, seed=0)
        >>> int(noisy.sum()), int(mask.sum())
        (2, 2)
    """
    num_classes, rate, seed = check_noise("pairflip", labels, num_classes, rate, seed)
    wrong = share_of_all(labels, rate, noise_generator(seed))
    return change(labels, wrong, (labels[wrong].long() + 1) % num_classes)
