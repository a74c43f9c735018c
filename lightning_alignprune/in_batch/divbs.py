"""DivBS: the samples that together make a batch's gradient (Hong et al., 2024)."""

from torch import Tensor
from typing_extensions import override

from lightning_alignprune._checks import check_bool, check_float
from lightning_alignprune.functional.batch_choice import diverse_choice, gradient_products
from lightning_alignprune.in_batch.base import FEWEST, BatchChoice, BatchLook


class DivBS(BatchChoice):
    """Train those samples of a batch whose gradients together make that of all of it.

    Picks are made one after the other, by how much a sample's gradient in the last layer has of
    what earlier picks have not made yet, so that no two are picked for the same.

    Args:
        keep_fraction: Share of a batch that is trained, in (0, 1]: ``floor(keep_fraction * B)``,
            and two at least.
        greedy: Take the best pick instead of drawing with probabilities.

    Raises:
        TypeError: If a value is of the wrong kind.
        ValueError: If ``keep_fraction`` is out of range.

    Note:
        Parity: the draw with probabilities, no weights and no bias in the gradient are the public
        code's; it keeps 0.1 of batches of 320, our default is 0.5. It makes the gradients of a
        random part of the features orthogonal to save time; here products of gradients do, exactly,
        in O(B^2 (C + D + M)) a batch of M picks.

        More picks than the gradients have directions are random. Under label noise it favours wrong
        labels, whose gradients are the largest.
    """

    needs_features = True

    def __init__(self, keep_fraction: float = 0.5, greedy: bool = False) -> None:
        remedy = "It is the share of a batch that is trained."
        self.keep_fraction = check_float(
            "DivBS", "keep_fraction", keep_fraction, above=0, high=1, remedy=remedy
        )
        self.greedy = check_bool("DivBS", "greedy", greedy)

    @property
    @override
    def description(self) -> str:
        return f"DivBS trains {100 * self.keep_fraction:.0f} % of each batch"

    @override
    def choose(self, look: BatchLook) -> Tensor:
        assert look.logits is not None
        assert look.labels is not None
        assert look.features is not None
        size = len(look.losses)
        # 0.57 * 100 is 56.999... in binary.
        count = min(size, max(FEWEST, int(self.keep_fraction * size + 1e-9)))
        products = gradient_products(look.logits, look.labels, look.features)
        return diverse_choice(products, look.draws(count), self.greedy).picked.sort().values
