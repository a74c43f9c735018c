"""Synthetic label noise with an exact rate and its mask.

Legend: ``N`` labels, ``C`` classes. Every function returns ``(noisy labels, mask)`` where the mask
is true exactly where the label changed.
"""

import torch
from torch import Tensor

from lightning_alignprune._checks import check_number


def _checked(owner: str, labels: Tensor, num_classes: int, rate: float) -> None:
    check_number(owner, "rate", rate, low=0.0, high=1.0, remedy="It is the share of wrong labels.")
    check_number(
        owner, "num_classes", num_classes, low=2, integer=True, remedy="Noise needs another class."
    )
    if labels.ndim != 1 or labels.is_floating_point():
        raise ValueError(
            f"{owner}: expected labels of shape (N,) and an integer dtype, got shape "
            f"{tuple(labels.shape)} and {labels.dtype}. Pass class indices."
        )
    if len(labels) and not (int(labels.min()) >= 0 and int(labels.max()) < num_classes):
        raise ValueError(
            f"{owner}: expected labels in [0, {num_classes - 1}], got "
            f"[{int(labels.min())}, {int(labels.max())}]. Check num_classes."
        )


def symmetric_uniform(
    labels: Tensor, num_classes: int, rate: float, seed: int
) -> tuple[Tensor, Tensor]:
    """Give exactly ``round(rate * N)`` random samples a uniformly drawn other class.

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
    _checked("symmetric_uniform", labels, num_classes, rate)
    generator = torch.Generator().manual_seed(seed)
    num_wrong = round(rate * len(labels))
    wrong = torch.randperm(len(labels), generator=generator)[:num_wrong].to(labels.device)
    offset = torch.randint(1, num_classes, (num_wrong,), generator=generator)
    noisy = labels.clone()
    noisy[wrong] = (labels[wrong] + offset.to(labels)) % num_classes
    return noisy, noisy != labels


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
    _checked("pairflip", labels, num_classes, rate)
    generator = torch.Generator().manual_seed(seed)
    num_wrong = round(rate * len(labels))
    wrong = torch.randperm(len(labels), generator=generator)[:num_wrong].to(labels.device)
    noisy = labels.clone()
    noisy[wrong] = (labels[wrong] + 1) % num_classes
    return noisy, noisy != labels
