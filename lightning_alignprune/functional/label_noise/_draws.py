"""What the noise models share: checking labels, choosing samples, changing labels."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from lightning_alignprune._checks import check_float, check_int
from lightning_alignprune.functional.draws import draw_seed

_STREAM = 0x1ABE1


def check_noise(
    owner: str, labels: Tensor, num_classes: int, rate: float, seed: int
) -> tuple[int, float, int]:
    """Return class count, rate and seed as plain numbers, if they and the labels fit together.

    Raises:
        TypeError: If one is of the wrong kind.
        ValueError: If one is out of range.
    """
    remedy = "It is the share of wrong labels."
    rate = check_float(owner, "rate", rate, low=0, high=1, remedy=remedy)
    remedy = "Noise needs another class."
    num_classes = check_int(owner, "num_classes", num_classes, low=2, remedy=remedy)
    seed = check_int(owner, "seed", seed, remedy="Any int will do.")
    if labels.ndim != 1 or labels.is_floating_point() or labels.dtype == torch.bool:
        raise ValueError(
            f"{owner}: expected labels of shape (N,) and an integer dtype, got shape "
            f"{tuple(labels.shape)} and {labels.dtype}. Pass class indices."
        )
    outside = (labels < 0) | (labels >= num_classes)
    if outside.any():
        first = int(outside.nonzero()[0])
        raise ValueError(
            f"{owner}: expected labels in [0, {num_classes - 1}], got {int(labels[first])} at "
            f"index {first}. Check num_classes."
        )
    return num_classes, rate, seed


def noise_generator(seed: int) -> torch.Generator:
    """Return a private CPU generator for the noise of ``seed``.

    The seed is mixed: whoever holds samples out with ``randperm`` and the same small seed would
    otherwise hold out just the samples whose labels are wrong.
    """
    return torch.Generator().manual_seed(draw_seed(seed, 0, _STREAM))


def share_of_all(labels: Tensor, rate: float, generator: torch.Generator) -> Tensor:
    """Draw exactly ``round(rate * N)`` positions out of all N, on the labels' device."""
    count = round(rate * len(labels))
    return torch.randperm(len(labels), generator=generator)[:count].to(labels.device)


def change(labels: Tensor, positions: Tensor, new: Tensor) -> tuple[Tensor, Tensor]:
    """Return a copy of ``labels`` with ``new`` at ``positions``, and where it differs.

    ``new`` comes as int64: arithmetic modulo C overflows in the narrow types labels are stored in.
    """
    noisy = labels.clone()
    noisy[positions] = new.to(labels)
    return noisy, noisy != labels


def change_per_class(
    labels: Tensor, target_of: Mapping[int, int], seed: int, count_of: Callable[[int], int]
) -> tuple[Tensor, Tensor]:
    """Move ``count_of(n_c)`` random members of each class c of ``target_of`` to its target."""
    generator = noise_generator(seed)
    noisy = labels.clone()
    for label, target in target_of.items():
        members = (labels == label).nonzero().squeeze(1)
        drawn = torch.randperm(len(members), generator=generator)[: count_of(len(members))]
        noisy[members[drawn.to(members.device)]] = target
    return noisy, noisy != labels
