"""OrderDP: the highest losses of a random pool (Jin et al., ICLR 2026)."""

from torch import Tensor
from typing_extensions import override

from lightning_alignprune._checks import check_float
from lightning_alignprune.functional.selection import Selection, orderdp_selection
from lightning_alignprune.policies.base import Policy, SelectionContext


class OrderDP(Policy):
    """Draw a random pool in each epoch and train its samples with the highest scores.

    How much is kept is exact, ``pool_fraction * top_fraction``, and there are no weights. Samples
    without a score are kept on top. ``pool_fraction=1.0`` keeps the best of all.

    Args:
        pool_fraction: Share of the samples that is drawn, in (0, 1].
        top_fraction: Share of the pool that is kept, in (0, 1].

    Raises:
        TypeError: If a value is no number.
        ValueError: If one is out of range.

    Note:
        Parity: 0.75 and 0.85, and going on to the end of the run, are the public code's. Its score
        is the latest loss, ``score="LastLoss"``; a sample never trained has the loss 3 there. Under
        label noise the highest losses are the wrong labels'.
    """

    finish = "selected"
    works_on_shares = True

    def __init__(self, pool_fraction: float = 0.75, top_fraction: float = 0.85) -> None:
        remedy = "1 leaves nothing out."
        self.pool_fraction = check_float(
            "OrderDP", "pool_fraction", pool_fraction, above=0, high=1, remedy=remedy
        )
        self.top_fraction = check_float(
            "OrderDP", "top_fraction", top_fraction, above=0, high=1, remedy=remedy
        )
        self.keep_fraction = self.pool_fraction * self.top_fraction

    @override
    def select(self, scores: Tensor, context: SelectionContext) -> Selection:
        return Selection(
            orderdp_selection(
                scores,
                self.pool_fraction,
                self.top_fraction,
                context.indices,
                context.seed,
                context.epoch,
                all_reduce=context.all_reduce,
            )
        )
