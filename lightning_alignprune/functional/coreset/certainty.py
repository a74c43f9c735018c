"""How sure one forward pass is, and how far from the label: margin, EL2N, GraNd.

Legend: ``N`` samples, ``C`` classes, ``d`` feature size.
"""

import torch
from torch import Tensor


def probability_margin(probabilities: Tensor) -> Tensor:
    """Return the largest probability minus the second largest: small = undecided.

    Args:
        probabilities: Shape (N, C), C at least 2.

    Returns:
        Shape (N,), in [0, 1].

    Example:
        >>> round(probability_margin(torch.tensor([[0.7, 0.2, 0.1]])).item(), 6)
        0.5
    """
    best = probabilities.topk(2, dim=1).values
    return best[:, 0] - best[:, 1]


def error_norm(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Return the length of the error vector, probabilities minus one-hot label (EL2N).

    Source: Paul et al. 2021.

    Args:
        probabilities: Shape (N, C), rows that add up to 1.
        labels: Shape (N,), int64, the given (possibly wrong) labels.

    Returns:
        Shape (N,), in [0, sqrt(2)]; high = far from the label.

    Example:
        >>> round(error_norm(torch.tensor([[0.7, 0.2, 0.1]]), torch.tensor([0])).item(), 6)
        0.374166
    """
    error = probabilities.clone()
    error.scatter_add_(1, labels.unsqueeze(1), -torch.ones_like(error[:, :1]))
    norm: Tensor = torch.linalg.vector_norm(error, dim=1)
    return norm


def last_layer_gradient_norm(
    probabilities: Tensor, labels: Tensor, features: Tensor, has_bias: bool = True
) -> Tensor:
    """Return the length of each sample's cross-entropy gradient in the last linear layer (GraNd).

    The gradient is the outer product of error vector and features, and the error vector itself for
    the bias: ``|p - y| * sqrt(1 + |h|^2)``. Of each sample's own loss; public code takes that of
    the batch's mean, so that samples of a smaller last batch come out larger.

    Source: Paul et al. 2021, who take all layers and average over initialisations.

    Args:
        probabilities: Shape (N, C).
        labels: Shape (N,), int64.
        features: Shape (N, d), what the last layer is given.
        has_bias: Whether the layer has one.

    Returns:
        Shape (N,), at least 0.

    Example:
        >>> p, h = torch.tensor([[0.7, 0.2, 0.1]]), torch.tensor([[3.0, 4.0]])
        >>> round(last_layer_gradient_norm(p, torch.tensor([0]), h).item(), 4)
        1.9079
    """
    squared = features.float().square().sum(1) + (1 if has_bias else 0)
    return error_norm(probabilities, labels) * squared.sqrt()
