"""Alignment of loss trajectories with a reference trajectory.

Legend: ``N`` samples, ``T`` recorded epochs. NaN in a trajectory marks an epoch in which the sample
was not seen; NaN in the reference marks an epoch without a reference pass.
"""

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from lightning_alignprune._checks import check_choice, check_int

Correlation = Literal["pearson", "cosine"]
CORRELATIONS: tuple[Correlation, ...] = get_args(Correlation)
Missing = Literal["observed", "carry"]
MISSING: tuple[Missing, ...] = get_args(Missing)

# T x chunk temporaries should stay in a CPU core's cache, and be small enough that the allocator
# keeps their memory: fresh pages cost as much as the sums. A GPU wants few launches.
CHUNK_SAMPLES_CPU, CHUNK_SAMPLES_CUDA = 8_192, 1 << 20
_MIN_VARIANCE = 1e-12


def alignment(
    losses: Tensor | Sequence[Tensor],
    reference: Tensor,
    correlation: Correlation = "pearson",
    min_observations: int = 4,
    missing: Missing = "observed",
    before: Tensor | None = None,
) -> Tensor:
    r"""Correlate each sample's loss trajectory with the reference's (Dynamic Alignment Score).

    With m the epochs in which sample i was seen, v its losses and u the reference,

    .. math:: \mathrm{DAS}_i = \frac{\langle a, b\rangle}{\lVert a\rVert\lVert b\rVert},\quad
              a = v_m - \bar v_m,\; b = u_m - \bar u_m

    for Pearson, and the same without subtracting the means for cosine. The reference is always
    restricted to the epochs in which the sample was seen. High means that the sample is learned
    like clean data. Cosine of non-negative losses is never negative, so only Pearson's sign says
    "clean" or "wrong".

    Args:
        losses: Shape (T, N), or T tensors of shape (N,), any float dtype. Row t is epoch t.
        reference: Shape (T,). Mean loss of the reference set after each of these epochs.
        correlation: ``"pearson"`` or ``"cosine"``.
        min_observations: Fewer seen epochs than this leave the score undefined. At least 2.
        missing: ``"observed"`` uses only seen epochs; ``"carry"`` repeats the last loss.
        before: Shape (N,). Last loss before the first row, for ``"carry"``. NaN where none.

    Returns:
        Shape (N,), float32, in [-1, 1]; NaN where fewer than ``min_observations`` epochs were seen
        or where either trajectory is flat.

    Raises:
        TypeError: If an option is of the wrong kind.
        ValueError: If an option is out of range, there is no row, or the numbers of rows and of
            reference values differ.

    Example:
        >>> losses = torch.tensor([[2.2, 0.5], [1.4, 0.6], [1.1, 0.9], [0.4, 1.2]])
        >>> alignment(losses, torch.tensor([2.0, 1.5, 1.0, 0.5]))
        tensor([ 0.9870, -0.9798])

    Note:
        O(N * T) time; extra memory is one chunk of samples times T, not N times T. No host wait.
    """
    owner, remedy = "alignment", "A correlation needs two points; 4 is the default."
    correlation = check_choice(owner, "correlation", correlation, CORRELATIONS)
    missing = check_choice(owner, "missing", missing, MISSING)
    min_observations = check_int(owner, "min_observations", min_observations, low=2, remedy=remedy)
    if len(losses) != len(reference):
        raise ValueError(
            f"alignment: expected as many reference values as rows of losses, got "
            f"{len(reference)} and {len(losses)}. Row t must be the epoch of reference[t]."
        )
    rows = list(losses)
    if not rows:
        raise ValueError(
            "alignment: expected at least one recorded epoch, got none. Record an epoch first."
        )
    device, num_samples = rows[0].device, rows[0].shape[0]
    # Centring u once keeps float32 exact enough when the reference hardly moves.
    u = reference.to(device=device, dtype=torch.float64)
    if correlation == "pearson":
        u = u - u.nanmean()
    has_reference = ~u.isnan()
    u = u.nan_to_num(nan=0.0).float()
    score = torch.empty(num_samples, device=device, dtype=torch.float32)
    size = CHUNK_SAMPLES_CUDA if device.type == "cuda" else CHUNK_SAMPLES_CPU
    for start in range(0, num_samples, size):
        part = slice(start, start + size)
        v = torch.stack([row[part] for row in rows]).float()
        if missing == "carry":
            _carry_forward(v, None if before is None else before[part])
        score[part] = _align_chunk(v, u, has_reference, correlation, min_observations)
    return score


def mean_trajectory(losses: Tensor | Sequence[Tensor]) -> Tensor:
    """Average each sample's losses over the epochs in which it was seen.

    Args:
        losses: Shape (T, N), or T tensors of shape (N,), any float dtype, T at least 1. NaN marks
            an epoch in which the sample was not seen.

    Returns:
        Shape (N,), float32, in the range of the losses; NaN for a sample that was never seen.

    Example:
        >>> mean_trajectory(torch.tensor([[2.0, torch.nan], [1.0, torch.nan], [torch.nan] * 2]))
        tensor([1.5000,    nan])

    Note:
        O(N * T) time, three temporaries of N values. No host wait.
    """
    total = torch.zeros(losses[0].shape, device=losses[0].device)
    count = torch.zeros_like(total)
    for row in losses:
        total += row.float().nan_to_num(nan=0.0)
        count += ~row.isnan()
    return total.div_(count)


def _carry_forward(v: Tensor, before: Tensor | None) -> None:
    """Put each sample's last seen loss, at first ``before``, in the place of every NaN."""
    last = v[0] if before is None else before.float()
    for row in v:
        torch.where(row.isnan(), last, row, out=row)
        last = row


def _align_chunk(
    v: Tensor, u: Tensor, has_reference: Tensor, correlation: Correlation, min_observations: int
) -> Tensor:
    # v - v is 0 where v is finite, else NaN: masks in floats, many times faster than in bools.
    m = v.sub(v).nan_to_num_(nan=-1.0).add_(1.0).mul_(has_reference.to(v.dtype).unsqueeze(1))
    v = v.nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0).mul_(m)
    n = m.sum(0)
    u = u.unsqueeze(1)
    if correlation == "pearson":
        mean = v.sum(0) / n
        a = v.sub_(mean).mul_(m)
        b = (u - (u.T @ m) / n).mul_(m)
        # A constant row leaves rounding noise of a few ulp of its mean, which is no variation.
        noise = (8 * torch.finfo(torch.float32).eps) * mean
        floor = (n * noise.square()).clamp_(min=_MIN_VARIANCE)
    else:
        a, b = v, u * m
        floor = torch.tensor(_MIN_VARIANCE, device=v.device)
    # Plain products and sums: einsum would become N tiny matrix products.
    ab = (a * b).sum(0)
    aa, bb = a.square_().sum(0), b.square_().sum(0)
    defined = (n >= min_observations) & (aa > floor) & (bb > _MIN_VARIANCE)
    score = (ab / (aa * bb).sqrt()).clamp_(-1.0, 1.0)
    return score.masked_fill_(~defined, torch.nan)
