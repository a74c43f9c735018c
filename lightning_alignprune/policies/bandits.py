"""epsilon-greedy and UCB pruning (Raju et al., 2021): train on what is uncertain."""

from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from lightning_alignprune._checks import check_float
from lightning_alignprune.functional.selection import Selection, draw_fixed_count, draw_largest
from lightning_alignprune.policies._fractions import check_prune_fraction
from lightning_alignprune.policies.base import Policy, SelectionContext


class _Bandit(Policy):
    """Keep moving averages of each sample's score; subclasses choose by them."""

    finish = "selected"
    works_on_shares = True

    def __init__(self, prune_fraction: float, newest_share: float) -> None:
        owner = type(self).__name__
        self.prune_fraction = check_prune_fraction(owner, prune_fraction)
        remedy = "1 uses the newest score alone."
        self.newest_share = check_float(
            owner, "newest_share", newest_share, above=0, high=1, remedy=remedy
        )
        self.keep_fraction = 1.0 - self.prune_fraction
        self.mean: Tensor | None = None
        self.variance: Tensor | None = None

    def _update(self, scores: Tensor, context: SelectionContext) -> tuple[Tensor, Tensor]:
        """Take in the scores of the samples that the last epoch trained; NaN until the first."""
        if self.mean is None or self.variance is None:
            self.mean = torch.full_like(scores, torch.nan)
            self.variance = torch.full_like(scores, torch.nan)
        mean, variance = self.mean.to(scores.device), self.variance.to(scores.device)
        is_new = ~scores.isnan()
        if context.trajectories.rows:
            is_new &= ~context.trajectories.rows[-1].isnan()
        old_mean = torch.where(is_new, mean.nan_to_num(nan=0.0), mean)
        old_variance = torch.where(is_new, variance.nan_to_num(nan=0.0), variance)
        change, share = scores - old_mean, self.newest_share
        self.variance = torch.where(
            is_new, (1 - share) * old_variance + share * change.square(), variance
        )
        self.mean = torch.where(is_new, old_mean + share * change, mean)
        return self.mean, self.variance

    def _choose(self, values: Tensor, epsilon: float, context: SelectionContext) -> Selection:
        defined = ~values.isnan()
        # 0.57 * 100 is 56.999... in binary; the user's 57 % of 100 is 57.
        count = int(self.keep_fraction * int(context.total(defined.sum())) + 1e-9)
        num_random = int(epsilon * count + 1e-9)
        common = (context.indices, context.seed, context.epoch)
        best = draw_largest(
            values, count - num_random, *common, stream=0, all_reduce=context.all_reduce
        )
        others = draw_fixed_count(
            defined & ~best, num_random, *common, stream=1, all_reduce=context.all_reduce
        )
        return Selection(best | others | ~defined)

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"mean": self.mean, "variance": self.variance}

    @override
    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.mean, self.variance = state["mean"], state["variance"]


class EpsilonGreedy(_Bandit):
    """Train on the samples with the highest averaged score, and on some random others.

    The score is averaged over the epochs in which the sample was trained, ``s <- (1 - a) s + a u``
    from 0, with ``a = newest_share``. Of the ``floor((1 - prune_fraction) * N)`` kept samples,
    ``floor(epsilon * kept)`` are drawn at random from the others. Samples without a score are kept
    on top. No weights.

    Args:
        prune_fraction: Share of samples left out of each epoch, in [0, 1).
        epsilon: Share of the kept samples that is random, in [0, 1].
        newest_share: Weight of the newest score in the average, in (0, 1].

    Raises:
        TypeError: If a value is of the wrong kind.
        ValueError: If a value is out of range.

    Note:
        Parity: no official code is public; 0.1 and 0.8 are our choice. The source's uncertainty
        is the loss, ``score="loss"``; another score takes its place. A sample that is not trained
        keeps its average, as no extra scoring pass is run. Selected anew in every epoch. It goes
        on to the end of the run.
    """

    def __init__(
        self, prune_fraction: float = 0.5, epsilon: float = 0.1, newest_share: float = 0.8
    ) -> None:
        super().__init__(prune_fraction, newest_share)
        remedy = "It is the share of the kept samples that is drawn at random."
        self.epsilon = check_float(
            "EpsilonGreedy", "epsilon", epsilon, low=0, high=1, remedy=remedy
        )

    @override
    def select(self, scores: Tensor, context: SelectionContext) -> Selection:
        mean, _ = self._update(scores, context)
        return self._choose(mean, self.epsilon, context)


class UCB(_Bandit):
    """Train on the samples with the highest averaged score plus a bonus for a score that moves.

    Beside the average, ``v <- (1 - a) v + a (u - s)^2`` with the old average s; the samples with
    the largest ``s + confidence * v`` are kept. Samples without a score are kept on top.

    Args:
        prune_fraction: Share of samples left out of each epoch, in [0, 1).
        confidence: Weight c of the variance, at least 0.
        newest_share: Weight of the newest score in the averages, in (0, 1].

    Raises:
        TypeError: If a value is of the wrong kind.
        ValueError: If a value is out of range.

    Note:
        Parity: the variance enters without a root, as in the public reimplementation. 1 and 0.8
        are our choice; see :class:`EpsilonGreedy` for the rest.
    """

    def __init__(
        self, prune_fraction: float = 0.5, confidence: float = 1.0, newest_share: float = 0.8
    ) -> None:
        super().__init__(prune_fraction, newest_share)
        remedy = "0 ranks by the average alone."
        self.confidence = check_float("UCB", "confidence", confidence, low=0, remedy=remedy)

    @override
    def select(self, scores: Tensor, context: SelectionContext) -> Selection:
        mean, variance = self._update(scores, context)
        return self._choose(mean + self.confidence * variance, 0.0, context)
