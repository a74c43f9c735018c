"""Which samples are worth keeping for a whole run?"""

from lightning_alignprune.functional.coreset.certainty import (
    error_norm,
    last_layer_gradient_norm,
    probability_margin,
)
from lightning_alignprune.functional.coreset.dynamics import (
    beta_log_weights,
    forgetting_events,
    mean_probability,
    window_uncertainty,
)
from lightning_alignprune.functional.coreset.neighbourhood import (
    neighbourhood_gain,
    neighbourhood_subset,
)
from lightning_alignprune.functional.coreset.prototypes import (
    cosine_kmeans,
    prototype_distance,
)
from lightning_alignprune.functional.coreset.subsets import (
    largest_subset,
    moderate_subset,
    small_loss_subset,
    weighted_subset,
)

__all__ = [
    "beta_log_weights",
    "cosine_kmeans",
    "error_norm",
    "forgetting_events",
    "largest_subset",
    "last_layer_gradient_norm",
    "mean_probability",
    "moderate_subset",
    "neighbourhood_gain",
    "neighbourhood_subset",
    "probability_margin",
    "prototype_distance",
    "small_loss_subset",
    "weighted_subset",
    "window_uncertainty",
]
