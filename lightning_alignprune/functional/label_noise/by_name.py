"""All noise models by name, for configurations."""

from collections.abc import Callable
from typing import Literal, get_args

from torch import Tensor

from lightning_alignprune._checks import check_choice, message
from lightning_alignprune.functional.label_noise import asymmetric, symmetric

NoiseModel = Literal[
    "symmetric_uniform",
    "symmetric_inclusive",
    "symmetric_next",
    "pairflip",
    "asymmetric_cifar10",
    "asymmetric_cifar100",
    "asymmetric_next",
]
NOISE_MODELS: tuple[NoiseModel, ...] = get_args(NoiseModel)

_Drawn = tuple[Tensor, Tensor]
_ANY_CLASSES: dict[str, Callable[[Tensor, int, float, int], _Drawn]] = {
    "symmetric_uniform": symmetric.symmetric_uniform,
    "symmetric_inclusive": symmetric.symmetric_inclusive,
    "symmetric_next": symmetric.symmetric_next,
    "pairflip": symmetric.pairflip,
    "asymmetric_next": asymmetric.asymmetric_next,
}
_OWN_CLASSES: dict[str, tuple[int, Callable[[Tensor, float, int], _Drawn]]] = {
    "asymmetric_cifar10": (10, asymmetric.asymmetric_cifar10),
    "asymmetric_cifar100": (100, asymmetric.asymmetric_cifar100),
}


def apply_label_noise(
    labels: Tensor, kind: NoiseModel, rate: float, seed: int, num_classes: int
) -> _Drawn:
    """Draw label noise by the name of its model.

    Args:
        labels: Shape (N,), integer class indices.
        kind: ``"symmetric_uniform"`` (what tables call symmetric), ``"symmetric_inclusive"``,
            ``"symmetric_next"``, ``"pairflip"``, ``"asymmetric_cifar10"``,
            ``"asymmetric_cifar100"`` or ``"asymmetric_next"``; each is a function of this package.
        rate: The model's rate, in [0, 1].
        seed: Seed of a private generator.
        num_classes: C. The two CIFAR maps insist on theirs.

    Returns:
        Noisy labels, shape (N,), dtype of ``labels``; mask of the changed ones, shape (N,), bool.

    Raises:
        ValueError: If the name is unknown, the class count is not the model's, or a value is out
            of range.

    Example:
        >>> import torch
        >>> noisy, mask = apply_label_noise(torch.arange(10), "pairflip", 0.3, 0, num_classes=10)
        >>> int(mask.sum()), bool(((torch.arange(10) + mask) % 10 == noisy).all())
        (3, True)
    """
    kind = check_choice("apply_label_noise", "kind", kind, NOISE_MODELS)
    if kind not in _OWN_CLASSES:
        return _ANY_CLASSES[kind](labels, num_classes, rate, seed)
    own_classes, draw = _OWN_CLASSES[kind]
    if num_classes != own_classes:
        raise ValueError(
            message(
                "apply_label_noise",
                "num_classes",
                f"to be {own_classes} for {kind!r}",
                num_classes,
                "Its class map belongs to one data set; asymmetric_next fits any.",
            )
        )
    return draw(labels, rate, seed)
