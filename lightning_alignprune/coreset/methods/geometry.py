"""Methods that look at features: Moderate, SSP, Prune4ReL."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from lightning_alignprune._checks import check_float, check_int, check_path
from lightning_alignprune.coreset.evidence import Evidence, SeenBatch
from lightning_alignprune.coreset.methods.base import CoresetMethod, ScoredMethod
from lightning_alignprune.functional.coreset import (
    cosine_kmeans,
    moderate_subset,
    neighbourhood_subset,
    prototype_distance,
)


class Moderate(CoresetMethod):
    """Keep the samples of middling distance to the median feature of their class.

    Source: Xia et al. 2023. Parity: exactly as many are kept as asked for; the public code rounds
    two ends apart, and stores the samples that it drops.
    """

    needs_pass = reads_features = keeps_features = True

    @override
    def choose(self, found: Evidence, count: int) -> Tensor:
        features, labels = _features_of(found), found.labels
        assert labels is not None
        return moderate_subset(features, labels, count)


class SSP(ScoredMethod):
    """Keep the samples farthest from the nearest of k prototypes; labels are not looked at.

    Source: self-supervised prototypes, Sorscher et al. 2022, who use features of a network trained
    without labels. Those of the warm-up are another thing: give yours as a file where you can.

    Args:
        num_prototypes: k; None for the number of classes.
        features: A ``.npy`` file of shape (N, d) with features of the training samples, in their
            order; None takes those of the warm-up.
        balanced: Whether every class keeps its share.

    Raises:
        TypeError: If a value is of the wrong kind.
        ValueError: If ``num_prototypes`` is below 1.
    """

    needs_pass = True

    def __init__(
        self,
        num_prototypes: int | None = None,
        features: str | Path | None = None,
        balanced: bool = False,
    ) -> None:
        super().__init__(balanced)
        remedy = "None takes the number of classes."
        self.num_prototypes = check_int(
            "SSP", "num_prototypes", num_prototypes, low=1, optional=True, remedy=remedy
        )
        remedy = "Name a .npy file, or None for the warm-up's features."
        self.features = (
            None if features is None else check_path("SSP", "features", features, remedy=remedy)
        )
        self.reads_features = self.keeps_features = features is None

    @override
    def scores(self, found: Evidence) -> Tensor:
        features = _features_of(found) if self.features is None else self._read(found.num_samples)
        k = self.num_prototypes
        if k is None:
            assert found.labels is not None
            k = len(torch.unique(found.labels))
        return prototype_distance(features, cosine_kmeans(features, k, found.seed))

    def _read(self, num_samples: int) -> Tensor:
        array = np.load(str(self.features), allow_pickle=False)
        if array.ndim < 2 or len(array) != num_samples or array.dtype.kind != "f":
            raise ValueError(
                f"SSP: expected features of shape ({num_samples}, d), floats, got "
                f"{array.shape} of {array.dtype}. Write a row for each training sample, in order."
            )
        return torch.from_numpy(array).flatten(1)


class Prune4ReL(CoresetMethod):
    """Keep the samples that lend the most confidence to their neighbours. Park et al. 2023.

    Args:
        threshold: Neighbours have ``0.5 + 0.5 * cosine`` above it: 0.975 for CIFAR-10, 0.95 for
            CIFAR-100 and ImageNet, 0.8 for Clothing-1M.
        eta: Scale of the confidences.

    Raises:
        TypeError: If a value is no number.
        ValueError: If a value is out of range; in the choice, if the set is too large for it.

    Note:
        Parity: the public code sees strongly augmented samples and can go round the classes; here
        they are seen as the scoring pass sees them, and classes are not looked at.
    """

    needs_pass = reads_features = keeps_features = True

    def __init__(self, threshold: float = 0.95, eta: float = 1.0) -> None:
        remedy = "0.95 is the paper's for CIFAR-100 and ImageNet."
        self.threshold = check_float(
            "Prune4ReL", "threshold", threshold, low=0.5, below=1, remedy=remedy
        )
        self.eta = check_float("Prune4ReL", "eta", eta, above=0, remedy="1 in the paper.")

    @override
    def values(self, seen: SeenBatch) -> Tensor:
        return seen.classified()[0].amax(1)

    @override
    def choose(self, found: Evidence, count: int) -> Tensor:
        assert found.values is not None
        return neighbourhood_subset(
            _features_of(found), found.values, count, self.threshold, self.eta, seed=found.seed
        )


def _features_of(found: Evidence) -> Tensor:
    assert found.features is not None
    return found.features
