"""Which samples of a batch are worth a gradient: pure rules.

Legend: ``B`` samples of a batch, ``C`` classes, ``D`` features, ``M`` samples that are picked,
``H`` losses that are remembered.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

_NOTHING = 1e-12  # share of the mean gradient that is rounding


class DiverseChoice(NamedTuple):
    """What :func:`diverse_choice` picked.

    Attributes:
        picked: Shape (M,), int64. Places in the batch, in the order of the picks.
        residual: Scalar, float64. Length of what of the mean gradient the picked ones cannot make.
    """

    picked: Tensor
    residual: Tensor


def gradient_products(logits: Tensor, labels: Tensor, features: Tensor) -> Tensor:
    """Return the inner products of the samples' gradients in the last layer's weights.

    Sample i's part of the gradient of the mean loss is ``(p_i - onehot(y_i)) / B`` times its
    features; the products of two such matrices are those of their factors.

    Args:
        logits: Shape (B, C).
        labels: Shape (B,), int64.
        features: Shape (B, D). What the last layer got.

    Returns:
        Shape (B, B), float64.

    Example:
        >>> logits, features = torch.zeros(2, 2), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> gradient_products(logits, torch.tensor([0, 0]), features).tolist()
        [[0.125, 0.0], [0.0, 0.125]]

    Note:
        O(B^2 (C + D)); the B gradients of C x D numbers are never made.
    """
    errors = logits.double().softmax(1) - F.one_hot(labels, logits.shape[1])
    errors, features = errors / len(logits), features.double()
    return (errors @ errors.T) * (features @ features.T)


def diverse_choice(products: Tensor, draws: Tensor, is_greedy: bool = False) -> DiverseChoice:
    """Pick samples whose gradients together make the mean gradient, one after the other (DivBS).

    Each pick is drawn with a probability proportional to the product, in absolute value, of a
    sample's gradient with what of the mean is not yet made; its direction, orthogonal to those
    before, is then taken out of the mean. Where nothing is left, the rest is drawn at random.

    Args:
        products: Shape (B, B). Inner products of the samples' parts of the mean gradient.
        draws: Shape (M, B), in [0, 1), M at most B. Random numbers, a row for each pick.
        is_greedy: Take the sample with the largest product instead of a draw.

    Returns:
        The choice.

    Example:
        >>> products = torch.diag(torch.tensor([4.0, 1.0, 9.0]))
        >>> diverse_choice(products, torch.full((2, 3), 0.5), is_greedy=True).picked.tolist()
        [2, 0]

    Note:
        O(M B^2) and M times some small kernels; B^2 numbers; no host wait. A pivoted Cholesky
        decomposition: no gradient is made orthogonal number by number.
    """
    rest, (count, size) = products.double().clone(), draws.shape  # less the directions picked
    with_mean, own, clocks = rest.sum(1), rest.diagonal().clone(), -draws.log()
    left = whole = with_mean.sum()
    picked = torch.empty(count, dtype=torch.int64, device=rest.device)
    taken = rest.new_zeros(size)
    for k in range(count):
        pull = with_mean.abs()
        chance = pull if is_greedy else pull / clocks[k]  # clocks of such rates: the first to ring
        # Where the mean is made, what is left of it is rounding: below all that pull.
        value = torch.where(pull > _NOTHING * whole, chance, draws[k] - 1)
        pick = (value + taken).argmax().view(1)
        row = rest[pick].squeeze(0)
        is_new = row[pick] > _NOTHING * own[pick]
        inverse = torch.where(is_new, 1 / row[pick], 0.0)
        share = with_mean[pick] * inverse
        left = left - (share * with_mean[pick]).squeeze(0)
        with_mean = with_mean - share * row
        rest.addr_(row, row * inverse, alpha=-1)
        picked[k : k + 1] = pick
        taken.index_fill_(0, pick, -torch.inf)
    return DiverseChoice(picked, left.clamp(min=0).sqrt())


def selective_probabilities(
    losses: Tensor, history: Tensor, beta: float = 1.0, least: float = 0.0
) -> Tensor:
    """Return with which probability each sample is trained: the harder, the likelier.

    ``max(least, F^beta)`` with F the share of the history *strictly* below the loss.

    Args:
        losses: Shape (B,).
        history: Shape (H,). Recent losses; NaN where there is none yet.
        beta: Above 0. Larger ones select less.
        least: Smallest probability, in [0, 1].

    Returns:
        Shape (B,), float32; 1 while there is no history.

    Example:
        >>> history = torch.tensor([0.1, 0.5, 0.5, 2.0])
        >>> selective_probabilities(history, history).tolist()
        [0.0, 0.25, 0.25, 0.75]
    """
    known = (~history.isnan()).sum()
    below = (history < losses.unsqueeze(1)).sum(1)
    found = (below / known.clamp(min=1)).pow(beta).clamp(min=least)
    return torch.where(known > 0, found, 1.0)
