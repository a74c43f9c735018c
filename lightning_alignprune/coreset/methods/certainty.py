"""Scores of one pass after the warm-up: SmallL, Margin, EL2N, GraNd."""

from torch import Tensor
from typing_extensions import override

from lightning_alignprune.coreset.evidence import SeenBatch
from lightning_alignprune.coreset.methods.base import PassMethod
from lightning_alignprune.functional.coreset import (
    error_norm,
    last_layer_gradient_norm,
    probability_margin,
)


class SmallLoss(PassMethod):
    """Keep the samples with the smallest losses: most have the right label (SmallL).

    Args:
        balanced: Whether every class keeps its share; easy classes crowd out the others if not.

    Note:
        Works with any loss that shows one number per sample.
    """

    needs_labels = False

    @override
    def values(self, seen: SeenBatch) -> Tensor:
        return -seen.losses


class SmallMargin(PassMethod):
    """Keep the samples between whose two likeliest classes the network is least decided (Margin).

    Args:
        balanced: Whether every class keeps its share.

    Note:
        The given label is not looked at. Parity: DeepCore keeps the most certain ones unless it
        balances classes.
    """

    @override
    def values(self, seen: SeenBatch) -> Tensor:
        return -probability_margin(seen.classified()[0])


class EL2N(PassMethod):
    """Keep the samples whose prediction is farthest from the label. Paul et al. 2021.

    Args:
        balanced: Whether every class keeps its share.

    Note:
        The paper averages over ten initialisations: ``CoresetRun(num_warmups=10)``. Keeps wrong
        labels first.
    """

    @override
    def values(self, seen: SeenBatch) -> Tensor:
        return error_norm(*seen.classified())


class GraNd(PassMethod):
    """Keep the samples with the largest gradients in the last layer. Paul et al. 2021.

    Args:
        balanced: Whether every class keeps its share.

    Note:
        Last layer only, as in DeepCore; with ``feature_layer`` the output of that layer stands for
        what the last layer is given. Keeps wrong labels first.
    """

    reads_features = True

    @override
    def values(self, seen: SeenBatch) -> Tensor:
        assert seen.features is not None
        return last_layer_gradient_norm(*seen.classified(), seen.features, seen.has_bias)
