"""IES: stop training a sample once its loss has come to rest (Yuan et al., ICLR 2025)."""

import torch
from torch import Tensor
from typing_extensions import override

from lightning_alignprune._checks import check_float, check_int
from lightning_alignprune.functional.early_stopping import NUM_LOSSES, mean_second_difference
from lightning_alignprune.functional.selection import Selection, full_selection
from lightning_alignprune.policies.base import Policy, SelectionContext


class IES(Policy):
    """Leave out the samples whose loss has come to rest, and look at them again now and then.

    A sample counts as mastered when the mean of its last three absolute second differences of the
    loss is below ``threshold``; it needs six recorded losses. The scores are not used: choose
    ``score="loss"``. No weights, no randomness.

    Args:
        threshold: Above 0. 1e-3 in the paper for CIFAR-10, 2e-3 for CIFAR-100; 1e-5 to 1e-1 are
            usual. It decides how much is pruned.
        revisit_epochs: After so many epochs away, at least 1, a mastered sample is trained for an
            epoch, and for as long as its last losses do not show again that it is mastered.

    Raises:
        TypeError: If a value is of the wrong kind.
        ValueError: If a value is out of range.

    Note:
        Parity: the source forwards mastered samples in every epoch, without gradient, to
        follow their loss, so its saving is in backward passes only. Here a pruned sample is *not*
        forwarded: nothing is known about it until ``revisit_epochs`` are over, the saving is
        whole, and differences skip the epochs in between. The source's stale exclusion list (when
        nobody is mastered) and its repeated old differences are not copied.

        Cost: ``6 + revisit_epochs`` rows of losses, O(N * rows) per epoch end. Keep the rows
        in float32: half precision rounds away the differences it looks at.
    """

    finish = "selected"
    works_on_shares = True

    def __init__(self, threshold: float = 1e-3, revisit_epochs: int = 10) -> None:
        owner = "IES"
        remedy = "1e-3 is the paper's for CIFAR-10."
        self.threshold = check_float(owner, "threshold", threshold, above=0, remedy=remedy)
        remedy = "A sample that never comes back can never be seen to have changed."
        self.revisit_epochs = check_int(
            owner, "revisit_epochs", revisit_epochs, low=1, remedy=remedy
        )
        self.window = NUM_LOSSES + self.revisit_epochs

    @override
    def select(self, scores: Tensor, context: SelectionContext) -> Selection:
        rows = context.trajectories.view(self.window).rows
        if len(rows) < NUM_LOSSES:
            return full_selection(len(scores), scores.device)
        is_mastered = mean_second_difference(rows) < self.threshold
        was_seen = torch.zeros_like(is_mastered)
        for row in rows[-self.revisit_epochs :]:
            was_seen |= ~row.isnan()
        return Selection(~(is_mastered & was_seen))
