"""A linear map that makes logits agree with clean labels, fitted on the reference set.

Under class-conditional noise a network learns the wrong labels as readily as the right ones, and
its own loss cannot tell them apart. A few clean labels can: they show which of its answers to
distrust.

Legend: ``n`` reference samples, ``C`` classes, ``K`` maps fitted at once.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_alignprune._checks import check_floats

STRENGTHS = (1.0, 10.0, 100.0)
NUM_FOLDS = 4
_MOST_CLASSES_OF_A_MATRIX = 128
_MAX_ITERATIONS = 30
_LARGEST_LOGIT = 1e4
# Standard errors that a gain must stand out by, and how many over n more: that of a handful of
# samples is itself hardly known. Without them ten samples of each of three classes could harm the
# loss by 20 %; with them no draw of tests/unit/functional/test_calibration.py harms by 1 %.
_CONFIDENCE = 1.0
_CAUTION = 45.0


class Calibrator(NamedTuple):
    """A linear map of logits.

    Attributes:
        weight: Shape (C, C) or, for many classes, (C,): applied as ``logits @ weight`` or
            ``logits * weight``.
        bias: Shape (C,).
        known: Shape (C,), bool: the classes that the reference set has.
    """

    weight: Tensor
    bias: Tensor
    known: Tensor

    def __call__(self, logits: Tensor) -> Tensor:
        """Map logits of shape (B, C)."""
        scaled = logits @ self.weight if self.weight.ndim == 2 else logits * self.weight
        return scaled + self.bias

    def corrected(self, logits: Tensor) -> Tensor:
        """Map logits, infinite ones too; shape (B, C), float32."""
        return self(_bounded(logits))

    def predictions(self, logits: Tensor) -> Tensor:
        """Return the probabilities of the mapped logits, shape (B, C), float32."""
        return self.corrected(logits).softmax(1)

    def losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the cross-entropy of the mapped logits, shape (B,), float32.

        A sample whose label the reference set lacks gets its plain loss: nothing was learned about
        that class, except that the reference has none, which says nothing about this sample.
        """
        logits = _bounded(logits)
        mapped = F.cross_entropy(self(logits), labels, reduction="none")
        plain = F.cross_entropy(logits, labels, reduction="none")
        return torch.where(self.known[labels.clamp_min(0)], mapped, plain)


def identity_calibrator(num_classes: int, device: torch.device | str = "cpu") -> Calibrator:
    """Return the map that changes nothing.

    Example:
        >>> identity_calibrator(3)(torch.tensor([[1.0, 2.0, 3.0]])).tolist()
        [[1.0, 2.0, 3.0]]
    """
    is_matrix = num_classes <= _MOST_CLASSES_OF_A_MATRIX
    weight = torch.eye(num_classes) if is_matrix else torch.ones(num_classes)
    known = torch.ones(num_classes, dtype=torch.bool, device=device)
    return Calibrator(weight.to(device), torch.zeros(num_classes, device=device), known)


class Calibration(NamedTuple):
    """What :func:`calibrate` found.

    Attributes:
        calibrator: The map.
        losses: Shape (n,), float32. The reference samples' losses under maps that had not seen
            them: what the losses of clean samples look like.
        strength: The penalty that was chosen; infinite for the map that changes nothing.
        fold_maps: The maps under which these losses are, for :func:`held_out_logits`.
    """

    calibrator: Calibrator
    losses: Tensor
    strength: float
    fold_maps: tuple[Calibrator, ...] = ()


def calibrate(
    logits: Tensor, labels: Tensor, strengths: Sequence[float] = STRENGTHS
) -> Calibration:
    """Fit the map, with the penalty that predicts held-out reference samples best.

    Minimises ``mean cross-entropy + strength / n * (|weight - identity|^2 + |bias|^2)`` for each
    strength, on all samples and on all but one fold. The strength wins whose gain over the plain
    logits on held-out samples, less ``1 + 45 / n`` standard errors, is largest. If not above 0, the
    map changes nothing: a reference set too small to tell leaves the plain loss.

    Args:
        logits: Shape (n, C), float. The network's logits on the reference set.
        labels: Shape (n,), int64. Its clean labels, in [0, C).
        strengths: Penalties to choose from, each above 0.

    Returns:
        The map, the held-out losses and the strength.

    Raises:
        TypeError: If ``strengths`` is no sequence of numbers.
        ValueError: If the shapes do not fit, there is no sample, or no strength above 0.

    Example:
        >>> logits = torch.tensor([[4.0, 0.0], [4.0, 0.0], [0.0, 4.0], [0.0, 4.0]]).repeat(20, 1)
        >>> flipped = torch.tensor([1, 1, 0, 0]).repeat(20)  # the network is always wrong
        >>> found = calibrate(logits, flipped)
        >>> bool((found.calibrator(logits).argmax(1) == flipped).all())
        True

    Note:
        One LBFGS run for all folds and strengths together; tens of milliseconds for 1,000 samples
        and 20 classes. Above 128 classes the map is one factor and one offset per class. Source:
        matrix and vector scaling (Guo et al., 2017), here shrunk towards the identity.
    """
    strengths = check_strengths("calibrate", strengths)
    if logits.ndim != 2 or labels.shape != logits.shape[:1] or not len(labels):
        raise ValueError(
            "calibrate: expected logits of shape (n, C) and labels of shape (n,) with n of at "
            f"least 1, got {tuple(logits.shape)} and {tuple(labels.shape)}. Give one label each."
        )
    # The caller may be in a validation pass, whose tensors autograd refuses: copies.
    with torch.inference_mode(False):
        return _calibrate(_bounded(logits.detach()).clone(), labels.clone(), strengths)


def check_strengths(owner: str, strengths: object) -> tuple[float, ...]:
    """Return penalties to choose from, at least one.

    Args:
        owner: Opens the message of an error.
        strengths: What was given.

    Raises:
        TypeError: If it is no sequence of numbers.
        ValueError: If it is empty or a number is not above 0.
    """
    remedy = "1, 10 and 100 are the defaults."
    found = check_floats(owner, "strengths", strengths, above=0, remedy=remedy)
    if not found:
        raise ValueError(f"{owner}: expected strengths not to be empty, got (). Give 10.")
    return found


def _bounded(logits: Tensor) -> Tensor:
    # A class that is masked out by -inf: times 0 that would be NaN.
    return logits.float().clamp(-_LARGEST_LOGIT, _LARGEST_LOGIT)


def _calibrate(logits: Tensor, labels: Tensor, strengths: Sequence[float]) -> Calibration:
    num_classes = logits.shape[1]
    folds = _folds(labels)
    # Row 0: everything; row f + 1: all but fold f.
    used = torch.stack(
        [torch.ones_like(folds, dtype=torch.bool)] + [folds != fold for fold in range(NUM_FOLDS)]
    )
    fits = _fit(logits, labels, used, strengths)
    held_out = torch.stack([_held_out(row[1:], logits, labels, folds) for row in fits])
    plain = F.cross_entropy(logits, labels, reduction="none")
    gains = plain - held_out
    # A few samples flatter one map or another by chance.
    error = gains.std(1, unbiased=False) / len(labels) ** 0.5
    surest = gains.mean(1) - (_CONFIDENCE + _CAUTION / len(labels)) * error
    surest = torch.where(held_out.isfinite().all(1), surest, -torch.inf)
    best = int(surest.argmax())
    if float(surest[best]) <= 0:
        same = identity_calibrator(num_classes, logits.device)
        same = same._replace(known=_known(labels, num_classes))
        return Calibration(same, plain, float("inf"), (same,) * NUM_FOLDS)
    whole, *without = fits[best]
    return Calibration(whole, held_out[best], float(strengths[best]), tuple(without))


def held_out_logits(fold_maps: Sequence[Calibrator], logits: Tensor, labels: Tensor) -> Tensor:
    """Map the reference's logits, each sample's by the map that was fitted without it.

    Args:
        fold_maps: Of a :class:`Calibration` on samples with these labels, in this order.
        logits: Shape (n, C), float; those of the fit, or newer ones of the same samples.
        labels: Shape (n,), int64.

    Returns:
        Shape (n, C), float32.
    """
    bounded = _bounded(logits.detach())
    folds = _folds(labels)
    mapped = torch.empty_like(bounded)
    for fold, held in enumerate(fold_maps):
        part = folds == fold
        mapped[part] = held(bounded[part])
    return mapped


def _folds(labels: Tensor) -> Tensor:
    """Deal the samples of each class to the folds in turn."""
    order = labels.argsort(stable=True)
    folds = torch.empty_like(labels)
    folds[order] = torch.arange(len(labels), device=labels.device) % NUM_FOLDS
    return folds


def _known(labels: Tensor, num_classes: int) -> Tensor:
    return torch.bincount(labels, minlength=num_classes) > 0


def _fit(
    logits: Tensor, labels: Tensor, used: Tensor, strengths: Sequence[float]
) -> list[list[Calibrator]]:
    """Fit one map per strength and row of ``used``; the problems share nothing but the loop."""
    num_classes = logits.shape[1]
    start = identity_calibrator(num_classes, logits.device)
    shares = used.float() / used.sum(1, keepdim=True).clamp_min(1)
    shares = shares.repeat(len(strengths), 1)  # (K, n)
    penalty = torch.tensor(strengths, device=logits.device).repeat_interleave(len(used))
    penalty = penalty / used.sum(1).repeat(len(strengths)).clamp_min(1)
    change = torch.zeros(len(shares), *start.weight.shape, device=logits.device)
    bias = torch.zeros(len(shares), num_classes, device=logits.device)
    change.requires_grad_()
    bias.requires_grad_()
    optimizer = torch.optim.LBFGS(
        [change, bias], max_iter=_MAX_ITERATIONS, line_search_fn="strong_wolfe"
    )

    def objective() -> Tensor:
        optimizer.zero_grad()
        weight = start.weight + change
        mapped = logits @ weight if weight.ndim == 3 else logits * weight.unsqueeze(1)
        mapped = mapped + bias.unsqueeze(1)  # (K, n, C)
        losses = F.cross_entropy(
            mapped.flatten(0, 1), labels.repeat(len(shares)), reduction="none"
        ).view(len(shares), -1)
        size = change.square().flatten(1).sum(1) + bias.square().sum(1)
        total = (shares * losses).sum() + (penalty * size).sum()
        total.backward()  # type: ignore[no-untyped-call]
        return total

    # The caller may be in a reference pass without gradients.
    with torch.enable_grad():
        optimizer.step(objective)  # type: ignore[no-untyped-call]
    maps = [
        Calibrator(start.weight + w.detach(), b.detach(), _known(labels[row], num_classes))
        for w, b, row in zip(change, bias, used.repeat(len(strengths), 1), strict=True)
    ]
    return [maps[i : i + len(used)] for i in range(0, len(maps), len(used))]


def _held_out(maps: list[Calibrator], logits: Tensor, labels: Tensor, folds: Tensor) -> Tensor:
    losses = torch.empty(len(labels), device=logits.device)
    for fold, held in enumerate(maps):
        part = folds == fold
        losses[part] = held.losses(logits[part], labels[part])
    return losses
