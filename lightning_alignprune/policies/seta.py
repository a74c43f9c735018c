"""SeTa: a window of difficulty groups that slides from easy to hard (Zhou et al., 2025)."""

from typing import Literal

from torch import Tensor
from typing_extensions import override

from lightning_alignprune._checks import check_choice, check_number
from lightning_alignprune.functional.grouping import sliding_window, window_selection
from lightning_alignprune.functional.selection import Selection
from lightning_alignprune.policies.base import Policy, SelectionContext


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
        easy_end: Literal["auto", "low", "high"] = "auto",
    ) -> None:
        owner = "SeTa"
        check_number(
            owner, "num_groups", num_groups, low=1, integer=True, remedy="5 is the paper's."
        )
        check_number(
            owner,
            "window_fraction",
            window_fraction,
            low=0.5 / num_groups,
            high=1.0,
            low_open=True,
            remedy="The window must hold at least one group.",
        )
        check_number(
            owner,
            "prune_probability",
            prune_probability,
            low=0.0,
            high=1.0,
            high_open=True,
            remedy="0 leaves the pruning to the window.",
        )
        check_choice(owner, "easy_end", easy_end, ("auto", "low", "high"))
        self.num_groups = num_groups
        self.window_fraction = window_fraction
        self.prune_probability = prune_probability
        self.easy_end: Literal["auto", "low", "high"] = easy_end
        self.keep_fraction = 1.0 - prune_probability

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
