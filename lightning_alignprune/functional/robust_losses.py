"""Losses that resist wrong labels, sample by sample.

Legend: ``B`` samples of a batch, ``C`` classes.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

_LEAST = 1e-4  # of a probability that enters a logarithm, in the public code of ELR and SOP


def generalized_cross_entropy(logits: Tensor, labels: Tensor, q: float = 0.7) -> Tensor:
    """Return ``(1 - p(y)^q) / q``: cross-entropy for q near 0, the mean absolute error for 1.

    Args:
        logits: Shape (B, C).
        labels: Shape (B,), int64, in [0, C).
        q: In (0, 1].

    Returns:
        Shape (B,), in [0, 1 / q].

    Example:
        >>> generalized_cross_entropy(torch.tensor([[2.0, 1.0, 0.0]]), torch.tensor([1]))
        tensor([0.8953])

    Note:
        Source: Zhang and Sabuncu, 2018.
    """
    own = logits.log_softmax(1).gather(1, labels.unsqueeze(1)).squeeze(1)
    return -torch.expm1(q * own) / q


def symmetric_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    alpha: float = 0.1,
    beta: float = 1.0,
    log_zero: float = -4.0,
) -> Tensor:
    """Return cross-entropy plus its reverse, in which label and prediction change places.

    ``alpha * -log p(y) + beta * -log_zero * (1 - p(y))``: the reverse sums ``p(k)`` times the
    logarithm of the label's probability, which is 0 for y and cut off at ``log_zero`` elsewhere.

    Args:
        logits: Shape (B, C).
        labels: Shape (B,), int64, in [0, C).
        alpha: Weight of the cross-entropy.
        beta: Weight of the reverse one.
        log_zero: What stands for the logarithm of 0, below 0.

    Returns:
        Shape (B,), at least 0.

    Example:
        >>> symmetric_cross_entropy(torch.tensor([[2.0, 1.0, 0.0]]), torch.tensor([1]))
        tensor([3.1618])

    Note:
        Source: Wang et al., 2019.
    """
    own = logits.log_softmax(1).gather(1, labels.unsqueeze(1)).squeeze(1)
    return -alpha * own + beta * log_zero * torch.expm1(own)


def moved_targets(targets: Tensor, logits: Tensor, beta: float) -> Tensor:
    """Move the targets of early-learning regularisation towards the predictions, without a graph.

    Args:
        targets: Shape (B, C). What was predicted before; 0 in the beginning.
        logits: Shape (B, C).
        beta: Share of the old targets, in [0, 1).

    Returns:
        Shape (B, C), float32.

    Example:
        >>> moved_targets(torch.zeros(1, 2), torch.zeros(1, 2), beta=0.7)
        tensor([[0.1500, 0.1500]])
    """
    found = F.normalize(_bounded(logits.detach()), p=1, dim=1)
    return beta * targets + (1 - beta) * found


def early_learning_penalty(logits: Tensor, targets: Tensor) -> Tensor:
    """Return ``log(1 - <t, p>)``, which falls as a prediction comes close to its target.

    Args:
        logits: Shape (B, C).
        targets: Shape (B, C). Averages of earlier predictions.

    Returns:
        Shape (B,), float32, at most 0.

    Example:
        >>> logits, targets = torch.tensor([[2.0, 1.0, 0.0]]), torch.tensor([[0.7, 0.2, 0.1]])
        >>> early_learning_penalty(logits, targets)
        tensor([-0.7415])

    Note:
        Source: Liu et al., 2020.
    """
    return (1 - (targets * _bounded(logits)).sum(1)).log()


def _bounded(logits: Tensor) -> Tensor:
    return logits.float().softmax(1).clamp(_LEAST, 1 - _LEAST)


def sparse_overparam_losses(
    logits: Tensor, labels: Tensor, u: Tensor, v: Tensor, balance: float = 0.0
) -> Tensor:
    """Return the losses of sparse over-parameterisation, which takes out the noise that it models.

    With Y the one-hot labels, ``U = clip(u^2 Y, 0, 1)`` and ``V = clip(v^2 (1 - Y), 0, 1)`` take
    the part of a label that is wrong: ``q = p + U - V``, cut off below and normalised, is compared
    with Y by cross-entropy, in which V has no gradient; and ``|onehot(argmax z) + U - V - Y|^2``,
    in which U has none, is added.

    Args:
        logits: Shape (B, C).
        labels: Shape (B,), int64, in [0, C).
        u: Shape (B,) or (B, 1).
        v: Shape (B, C).
        balance: Weight of ``-mean_k log(mean_i q_ik)``, which keeps all classes in use. It is one
            number for the batch, added to each sample's loss.

    Returns:
        Shape (B,), float32.

    Example:
        >>> logits, labels = torch.tensor([[2.0, 1.0, 0.0]]), torch.tensor([1])
        >>> sparse_overparam_losses(logits, labels, torch.zeros(1), torch.zeros(1, 3))
        tensor([3.4076])

    Note:
        Source: SOP, Liu et al., 2022.
    """
    classes = logits.shape[1]
    onehot = F.one_hot(labels, classes).float()
    right = (u.reshape(-1, 1).square() * onehot).clamp(0, 1)
    wrong = (v.square() * (1 - onehot)).clamp(0, 1)
    shifted = (logits.float().softmax(1) + right - wrong.detach()).clamp(min=_LEAST)
    shifted = F.normalize(shifted, p=1, dim=1).clamp(_LEAST, 1)
    entropy = -(onehot * shifted.log()).sum(1)
    guess = F.one_hot(logits.detach().argmax(1), classes).float()
    squared = (guess + right.detach() - wrong - onehot).square().sum(1)
    if not balance:
        return entropy + squared
    return entropy + squared - balance * shifted.mean(0).clamp(_LEAST, 1).log().mean()


def view_consistency(weak: Tensor, strong: Tensor) -> Tensor:
    """Return ``KL(p(weak) || p(strong))`` of two views' logits; the weak view has no gradient.

    Args:
        weak: Shape (B, C).
        strong: Shape (B, C).

    Returns:
        Shape (B,), float32, at least 0.

    Example:
        >>> view_consistency(torch.tensor([[2.0, 1.0, 0.0]]), torch.tensor([[2.0, 1.0, 0.0]]))
        tensor([0.])
    """
    expected, found = weak.detach().float().log_softmax(1), strong.float().log_softmax(1)
    return (expected.exp() * (expected - found)).sum(1)
