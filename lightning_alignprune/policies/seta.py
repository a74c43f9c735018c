"""SeTa: a window of difficulty groups that slides from easy to hard (Zhou et al., 2025)."""

from typing import Literal, get_args

from torch import Tensor
from typing_extensions import override

from lightning_alignprune._checks import check_choice, check_float, check_int
from lightning_alignprune.functional.grouping import sliding_window, window_selection
from lightning_alignprune.functional.selection import Selection
from lightning_alignprune.policies.base import Policy, SelectionContext

EasyEnd = Literal["auto", "low", "high"]
EASY_ENDS: tuple[EasyEnd, ...] = get_args(EasyEnd)


class SeTa(Policy):
    """Drop a random share, group the rest by score, train on a sliding window of the groups.

    Each epoch: draw ``1 - prune_probability`` of the samples, split them into ``num_groups``
    groups by exact one-dimensional k-means, and keep ``round(num_groups * window_fraction)``
    neighbouring groups. The window starts one group above the easiest, moves one group towards
    the hard end per epoch, and begins again at the easy end. All weights are 1.

    Args:
        num_groups: Number of groups k, at least 1. 5 in the paper's CIFAR runs.
        window_fraction: Share of the groups in the window, in (0, 1]. 0.9 in the CIFAR runs, where
            4 of 5 groups train; 0.6 for ImageNet.
        prune_probability: Share of samples dropped at random before grouping, in [0, 1). 0.1 in
            the CIFAR runs, 0 for ImageNet.
        easy_end: At which end of the score the easy samples are: ``"low"`` as with a loss,
            ``"high"`` as with an alignment score, ``"auto"`` as the score itself says.

    Raises:
        TypeError: If a value is of the wrong kind.
        ValueError: If a value is out of range or the window would hold no group.

    Note:
        Parity: the public code groups by one run of Lloyd's algorithm; ours is the optimal
        grouping. Its first epoch, without losses, already drops the random share; ours trains on
        everything. Its draws come from global generators. Its class defaults are 10 groups, window
        0.5 and share 0; the defaults here are those of its CIFAR script. It has no say about
        samples without a score; here they are kept. Fed with DAS it would call the noisiest group
        easy; ``easy_end="low"`` gives that.

        If groups are tiny (one outlier), the window may hold few samples; what a run saves varies.
    """

    finish = "partial"
    works_on_shares = True

    def __init__(
        self,
        num_groups: int = 5,
        window_fraction: float = 0.9,
        prune_probability: float = 0.1,
        easy_end: EasyEnd = "auto",
    ) -> None:
        owner = "SeTa"
        remedy = "5 is the paper's."
        self.num_groups = check_int(owner, "num_groups", num_groups, low=1, remedy=remedy)
        remedy, least = "The window must hold at least one group.", 0.5 / self.num_groups
        self.window_fraction = check_float(
            owner, "window_fraction", window_fraction, above=least, high=1, remedy=remedy
        )
        remedy = "0 leaves the pruning to the window."
        self.prune_probability = check_float(
            owner, "prune_probability", prune_probability, low=0, below=1, remedy=remedy
        )
        self.easy_end = check_choice(owner, "easy_end", easy_end, EASY_ENDS)
        self.keep_fraction = 1.0 - self.prune_probability

    @override
    def select(self, scores: Tensor, context: SelectionContext) -> Selection:
        # The public counter is 0 in the first epoch, which has no losses and is never pruned here.
        window = sliding_window(self.num_groups, self.window_fraction, context.num_selections + 1)
        return window_selection(
            scores,
            self.num_groups,
            window,
            self.keep_fraction,
            context.indices,
            context.seed,
            context.epoch,
            context.easy_end if self.easy_end == "auto" else self.easy_end,
            context.all_reduce,
        )
