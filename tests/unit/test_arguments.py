"""Every public constructor refuses a wrong kind by name, and keeps plain Python numbers."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from lightning_alignprune import (
    IES,
    RS2,
    UCB,
    BatchLoss,
    CalibratedLoss,
    CenteredLoss,
    DynamicAlignment,
    DynamicRandom,
    EpsilonGreedy,
    InfoBatch,
    LabelOdds,
    LossTrajectories,
    Margin,
    MeanLoss,
    MixtureCut,
    OrderDP,
    PosteriorCut,
    PrunedSampler,
    PruningSchedule,
    PseudoClean,
    ReferenceRank,
    RePB,
    SampleLoss,
    SeTa,
    StaticSubset,
    WrongEvents,
)
from lightning_alignprune.functional import (
    alignment,
    apply_label_noise,
    calibrate,
    gaussian_cut,
    infobatch_selection,
    reference_cut,
)
from lightning_alignprune.models import (
    Classifier,
    OptimizerConfig,
    ScheduleConfig,
    mlp3,
    small_cnn,
)
from lightning_alignprune.reference.pseudo_clean import PseudoModerate

ONES = torch.ones(4)
WRONG_KINDS: list[tuple[Any, dict[str, Any]]] = [
    (SampleLoss, {"plain": "no"}),
    (BatchLoss, {"alpha": "0.9"}),
    (BatchLoss, {"bias_correction": 1}),
    (CalibratedLoss, {"strengths": 1}),
    (CalibratedLoss, {"strengths": "10"}),
    (CalibratedLoss, {"strengths": ["a"]}),
    (DynamicAlignment, {"window": "25"}),
    (DynamicAlignment, {"window": 25.0}),
    (DynamicAlignment, {"min_observations": True}),
    (DynamicAlignment, {"correlation": 1}),
    (DynamicAlignment, {"missing": None}),
    (MeanLoss, {"gate": True}),
    (ReferenceRank, {"window": "ten"}),
    (InfoBatch, {"prune_probability": "0.5"}),
    (InfoBatch, {"rescale": None}),
    (InfoBatch, {"keep_floor": True}),
    (SeTa, {"num_groups": 5.0}),
    (SeTa, {"easy_end": 0}),
    (DynamicRandom, {"prune_fraction": None}),
    (StaticSubset, {"indices": 1}),
    (StaticSubset, {"indices": [0.5]}),
    (StaticSubset, {"indices": [True, False]}),
    (StaticSubset, {"indices": np.array([True, False])}),
    (StaticSubset, {"indices": torch.tensor([[0, 1]])}),
    (StaticSubset, {"indices": "12"}),
    (StaticSubset, {"indices": ["1", "2"]}),
    (StaticSubset, {"indices": {1, 2}}),
    (IES, {"threshold": "0.001"}),
    (IES, {"revisit_epochs": 1.5}),
    (EpsilonGreedy, {"epsilon": "0.1"}),
    (UCB, {"confidence": True}),
    (CenteredLoss, {"plain": 1}),
    (RePB, {"prune_probability": "0.5"}),
    (OrderDP, {"top_fraction": None}),
    (RS2, {"prune_fraction": True}),
    (UCB, {"newest_share": [0.5]}),
    (MixtureCut, {"patience": 5.0}),
    (MixtureCut, {"max_wrong": "0.2"}),
    (MixtureCut, {"min_kept_per_class": None}),
    (PruningSchedule, {"start_epoch": "1"}),
    (PruningSchedule, {"stop_fraction": True}),
    (PruningSchedule, {"finish": 1}),
    (PseudoClean, {"size": "0.1"}),
    (PseudoClean, {"size": True}),
    (PseudoClean, {"balanced": "x"}),
    (PseudoModerate, {"after_epochs": 4.0}),
    (LossTrajectories, {"num_samples": 4.0}),
    (LossTrajectories, {"num_samples": 4, "keep_best": "no"}),
    (PrunedSampler, {"num_samples": "4"}),
    (PrunedSampler, {"num_samples": 4, "shuffle": "no"}),
    (PrunedSampler, {"num_samples": 4, "seed": "7"}),
    (PrunedSampler, {"num_samples": 4, "drop_last": 0}),
    (Classifier, {"network": "mlp3", "pretrained": "no"}),
    (Classifier, {"network": 3}),
    (Classifier, {"network": "mlp3", "optimizer": "sgd"}),
    (Classifier, {"network": "mlp3", "schedule": {"name": "cosine"}}),
    (OptimizerConfig, {"lr": "0.1"}),
    (OptimizerConfig, {"nesterov": 1}),
    (ScheduleConfig, {"name": "drops", "drop_epochs": 5}),
    (ScheduleConfig, {"cycle_momentum": "yes"}),
    (small_cnn, {"width": "32"}),
    (mlp3, {"num_features": 300.0}),
    (alignment, {"losses": [ONES], "reference": ONES[:1], "min_observations": "4"}),
    (calibrate, {"logits": ONES[:, None], "labels": ONES.long(), "strengths": 1.0}),
    (gaussian_cut, {"scores": ONES, "max_wrong": "0.2"}),
    (reference_cut, {"ranks": ONES, "num_reference": 1.5}),
    (
        infobatch_selection,
        {
            "scores": ONES,
            "indices": torch.arange(4),
            "seed": 0,
            "epoch": 1,
            "prune_probability": "0.5",
        },
    ),
    (
        apply_label_noise,
        {"labels": ONES.long(), "kind": "pairflip", "num_classes": 3, "seed": 0, "rate": "0.5"},
    ),
    (
        apply_label_noise,
        {"labels": ONES.long(), "kind": "pairflip", "num_classes": 3, "rate": 0.5, "seed": "0"},
    ),
]


@pytest.mark.parametrize(
    ("make", "arguments"), WRONG_KINDS, ids=lambda v: getattr(v, "__name__", None)
)
def test_a_wrong_kind_is_named(make, arguments):
    name = list(arguments)[-1]
    with pytest.raises(TypeError, match=rf"^\w+: expected {name} .*, got .*\. [A-Z0-9]"):
        make(**arguments)


def test_options_of_functions_are_looked_at():
    rows = [ONES] * 4
    with pytest.raises(ValueError, match="alignment: expected correlation to be one of 'pearson'"):
        alignment(rows, ONES, correlation="spearman")
    with pytest.raises(ValueError, match=r"alignment: expected min_observations in \[2, inf\)"):
        alignment(rows, ONES, min_observations=1)
    with pytest.raises(ValueError, match="infobatch_selection: expected rescale to be one of"):
        infobatch_selection(ONES, 0.5, torch.arange(4), seed=0, epoch=1, rescale="mean")
    with pytest.raises(ValueError, match=r"reference_cut: expected max_wrong in \(0, 1\), got 1.5"):
        reference_cut(ONES, 10, max_wrong=1.5)
    with pytest.raises(ValueError, match="calibrate: expected strengths not to be empty"):
        calibrate(ONES[:, None], ONES.long(), strengths=())


I3, F5 = np.int64(3), np.float32(0.5)


@pytest.mark.parametrize(
    "made",
    [
        SampleLoss(plain=np.bool_(True)),
        BatchLoss(alpha=F5, bias_correction=np.bool_(False)),
        CalibratedLoss(strengths=np.array([1.0, 10.0], dtype=np.float32)),
        LabelOdds(F5, np.array([1.0, 10.0], dtype=np.float32)),
        Margin(decay=F5),
        WrongEvents(F5),
        DynamicAlignment(window=np.int64(25), min_observations=I3),
        MeanLoss(window=I3),
        InfoBatch(F5, keep_floor=F5),
        SeTa(np.int64(5), F5, F5),
        DynamicRandom(F5),
        StaticSubset(F5),
        IES(F5, I3),
        EpsilonGreedy(F5, F5, F5),
        UCB(F5, F5, F5),
        RePB(F5),
        OrderDP(F5, F5),
        RS2(F5),
        MixtureCut(F5, I3, F5, readmit=F5, min_kept=F5, min_kept_per_class=F5),
        PosteriorCut(F5, I3, F5, F5, F5, F5, F5, F5),
        PruningSchedule(I3, F5),
        PseudoClean(F5),
        PseudoClean(I3, np.bool_(True)),
        OptimizerConfig(lr=F5, weight_decay=F5, momentum=F5),
        ScheduleConfig("drops", drop_epochs=np.array([3, 5]), drop_factor=F5),
    ],
    ids=lambda made: type(made).__name__,
)
def test_numbers_of_numpy_are_kept_as_plain_ones(made):
    values = dataclasses.asdict(made) if dataclasses.is_dataclass(made) else vars(made)
    given = [value for name, value in values.items() if not name.startswith("_")]
    flat = [x for value in given for x in (value if type(value) is tuple else [value])]
    assert flat
    assert {type(value) for value in flat} <= {int, float, bool, str, type(None)}


def test_indices_of_a_subset_come_in_any_sequence_of_ints():
    for indices in ([0, 2], (0, 2), range(0, 4, 2), np.array([0, 2]), torch.tensor([0, 2])):
        assert StaticSubset(indices=indices).indices.tolist() == [0, 2]
    for indices in ([], [0, 0], [-1, 2]):
        with pytest.raises(ValueError, match="StaticSubset: expected indices to be distinct"):
            StaticSubset(indices=indices)
