"""Pure tensor functions: tensors in, tensors out. Nothing here knows Lightning or keeps state."""

from lightning_alignprune.functional.alignment import alignment, mean_trajectory
from lightning_alignprune.functional.batch_choice import (
    DiverseChoice,
    diverse_choice,
    gradient_products,
    selective_probabilities,
)
from lightning_alignprune.functional.calibration import (
    Calibration,
    Calibrator,
    calibrate,
    held_out_logits,
    identity_calibrator,
)
from lightning_alignprune.functional.coreset import moderate_subset, small_loss_subset
from lightning_alignprune.functional.draws import draw_seed, sample_keys, uniform
from lightning_alignprune.functional.early_stopping import mean_second_difference
from lightning_alignprune.functional.grouping import (
    group_labels,
    optimal_cuts,
    sliding_window,
    window_selection,
)
from lightning_alignprune.functional.label_audit import (
    Judgement,
    class_matrix,
    judge_by_comparison,
    judge_by_quality,
    most_suspicious_first,
    two_point_distribution,
)
from lightning_alignprune.functional.label_noise.asymmetric import (
    asymmetric_cifar10,
    asymmetric_cifar100,
    asymmetric_next,
)
from lightning_alignprune.functional.label_noise.by_name import NOISE_MODELS, apply_label_noise
from lightning_alignprune.functional.label_noise.symmetric import (
    pairflip,
    symmetric_inclusive,
    symmetric_next,
    symmetric_uniform,
)
from lightning_alignprune.functional.label_posterior import (
    Transition,
    class_prior,
    estimate_transition,
    label_log_odds,
    label_posterior,
    mean_predictions,
    reference_confusion,
    transition_matrix,
)
from lightning_alignprune.functional.mixture import (
    Cut,
    gaussian_cut,
    reference_cut,
    reference_rank,
)
from lightning_alignprune.functional.robust_losses import (
    early_learning_penalty,
    generalized_cross_entropy,
    moved_targets,
    sparse_overparam_losses,
    symmetric_cross_entropy,
    view_consistency,
)
from lightning_alignprune.functional.selection import (
    Selection,
    draw_fixed_count,
    draw_largest,
    full_selection,
    infobatch_selection,
    keep_always,
    next_subset,
    orderdp_selection,
    repb_selection,
)

__all__ = [
    "NOISE_MODELS",
    "Calibration",
    "Calibrator",
    "Cut",
    "DiverseChoice",
    "Judgement",
    "Selection",
    "Transition",
    "alignment",
    "apply_label_noise",
    "asymmetric_cifar10",
    "asymmetric_cifar100",
    "asymmetric_next",
    "calibrate",
    "class_matrix",
    "class_prior",
    "diverse_choice",
    "draw_fixed_count",
    "draw_largest",
    "draw_seed",
    "early_learning_penalty",
    "estimate_transition",
    "full_selection",
    "gaussian_cut",
    "generalized_cross_entropy",
    "gradient_products",
    "group_labels",
    "held_out_logits",
    "identity_calibrator",
    "infobatch_selection",
    "judge_by_comparison",
    "judge_by_quality",
    "keep_always",
    "label_log_odds",
    "label_posterior",
    "mean_predictions",
    "mean_second_difference",
    "mean_trajectory",
    "moderate_subset",
    "most_suspicious_first",
    "moved_targets",
    "next_subset",
    "optimal_cuts",
    "orderdp_selection",
    "pairflip",
    "reference_confusion",
    "reference_cut",
    "reference_rank",
    "repb_selection",
    "sample_keys",
    "selective_probabilities",
    "sliding_window",
    "small_loss_subset",
    "sparse_overparam_losses",
    "symmetric_cross_entropy",
    "symmetric_inclusive",
    "symmetric_next",
    "symmetric_uniform",
    "transition_matrix",
    "two_point_distribution",
    "uniform",
    "view_consistency",
    "window_selection",
]
