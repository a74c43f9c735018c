"""InfoBatch: unbiased dynamic pruning (Qin et al., ICLR 2024)."""

from torch import Tensor
from typing_extensions import override

from lightning_alignprune._checks import check_choice, check_float
from lightning_alignprune.functional.selection import (
    RESCALES,
    Rescale,
    Selection,
    infobatch_selection,
)
from lightning_alignprune.policies.base import Policy, SelectionContext


class InfoBatch(Policy):
    """Drop samples whose score is below the mean with a fixed probability; weight up the rest.

    With ``LastLoss`` this is InfoBatch: easy samples are dropped. With ``DynamicAlignment`` it is
    AlignPrune on InfoBatch: samples that are not learned like clean data are dropped.

    Args:
        prune_probability: Chance r in [0, 1] that a sample below the mean is dropped in an epoch.
            It comes back by the next draw with probability 1 - r; with 1.0 it stays out for as
            long as its score stays low. 0.5 in the paper, 0.75 for very large sets.
        rescale: ``"expectation"`` weights kept low samples by ``|low| / |kept low|``, so that the
            expected gradient is that of the full set, *wrong labels included*; where ``|low|`` is
            too small for one to be kept in each epoch, by ``1 / (1 - r)``. ``"none"`` weights
            nothing: what is dropped is really gone.
        keep_floor: Smallest share of low samples that is kept, in [0, 1]. The public code has 0.1.

    Raises:
        TypeError: If a value is of the wrong kind.
        ValueError: If a value is out of range.

    Note:
        Parity: the public code weights by ``1 / (1 - r)`` after rounding the kept count down, which
        is slightly biased; ours is exact. It clips r to 0.9, which is ``keep_floor=0.1`` here. It
        starts all scores at 3.0; here a sample without a score is kept and left out of the mean.
        Its weights of the last pruned epoch stay on in the finish unless the number of epochs is a
        multiple of 8; ours are reset. Its draws do not depend on the run's seed; ours do.
    """

    finish = "full"
    works_on_shares = True

    def __init__(
        self,
        prune_probability: float = 0.5,
        rescale: Rescale = "expectation",
        keep_floor: float = 0.0,
    ) -> None:
        owner = "InfoBatch"
        remedy = "0 prunes nothing, 1 drops every sample below the mean score."
        self.prune_probability = check_float(
            owner, "prune_probability", prune_probability, low=0, high=1, remedy=remedy
        )
        self.rescale = check_choice(owner, "rescale", rescale, RESCALES)
        remedy = "0.1 is the public code's."
        self.keep_floor = check_float(owner, "keep_floor", keep_floor, low=0, high=1, remedy=remedy)
        self.keep_fraction = max(self.keep_floor, 1.0 - self.prune_probability)
        self.weighs_samples = rescale != "none" and self.keep_fraction < 1.0

    @override
    def select(self, scores: Tensor, context: SelectionContext) -> Selection:
        return infobatch_selection(
            scores,
            1.0 - self.keep_fraction,
            context.indices,
            context.seed,
            context.epoch,
            rescale=self.rescale,
            all_reduce=context.all_reduce,
        )
