"""What each method keeps of prepared evidence, and which arguments are refused."""

import numpy as np
import pytest
import torch

from lightning_alignprune.coreset import (
    CORESETS,
    DUAL,
    EL2N,
    SSP,
    CoresetRun,
    CoresetWarmup,
    DynUnc,
    Evidence,
    Forgetting,
    GraNd,
    Moderate,
    Prune4ReL,
    SeenBatch,
    SmallLoss,
    SmallMargin,
)

P = torch.tensor([[0.7, 0.2, 0.1], [0.5, 0.4, 0.1], [0.1, 0.1, 0.8]])
LABELS = torch.tensor([0, 0, 1])
BATCH = SeenBatch(-P[torch.arange(3), LABELS].log(), P, LABELS, torch.tensor([[0.0], [9.0], [0.0]]))


@pytest.mark.parametrize(
    ("method", "first"), [(SmallLoss(), 0), (SmallMargin(), 1), (EL2N(), 2), (GraNd(), 1)]
)
def test_what_a_pass_keeps_first(method, first):
    found = Evidence(3, [], method.values(BATCH), LABELS)
    assert method.choose(found, 1).tolist() == [first]
    assert method.averages_scores
    assert not method.needs_rows


def test_a_balanced_choice_keeps_every_class():
    method = SmallLoss(balanced=True)
    found = Evidence(4, [], torch.tensor([9.0, 8.0, 1.0, 0.0]), torch.tensor([0, 0, 1, 1]))
    assert method.choose(found, 2).tolist() == [0, 2]
    with pytest.raises(ValueError, match="SmallLoss: expected labels for balanced=True"):
        method.choose(found._replace(labels=None), 2)


def test_never_learned_samples_come_last_or_first():
    rows = [torch.tensor(row) for row in ([0.0, 1.0, 1.0], [0.0, 0.0, 1.0], [0.0, 1.0, 1.0])]
    found = Evidence(3, rows, None, LABELS)
    assert Forgetting().choose(found, 1).tolist() == [1]
    assert Forgetting("max").choose(found, 1).tolist() == [0]


def rows_of(num_samples=200, num_epochs=6):
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(num_samples, generator=generator) for _ in range(num_epochs)]


def test_dyn_unc_and_dual_differ_and_dual_keeps_the_less_learned():
    calm, restless, learned = [0.1, 0.1, 0.1], [0.1, 0.5, 0.1], [0.6, 1.0, 0.6]
    rows = [torch.tensor(row) for row in zip(calm, restless, learned, strict=True)]
    found = Evidence(3, rows, seed=0)
    assert DUAL(2).choose(found, 1).tolist() == [1]
    assert set(DynUnc(2).choose(found, 2).tolist()) == {1, 2}


def test_the_beta_draw_is_exact_in_number_and_follows_the_seed():
    found, method = Evidence(200, rows_of()), DUAL(3, "beta")
    first, again = method.choose(found, 60), method.choose(found, 60)
    other = method.choose(found._replace(seed=1), 60)
    assert len(first.unique()) == 60
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first, DUAL(3).choose(found, 60))
    assert not method.averages_scores


def test_ssp_reads_features_of_another_network(tmp_path):
    features = torch.randn(30, 4, generator=torch.Generator().manual_seed(0))
    np.save(tmp_path / "features.npy", features.numpy())
    found = Evidence(30, [], torch.zeros(30), torch.arange(30) % 3, features)
    path = tmp_path / "features.npy"
    method = SSP(features=path)
    assert not method.keeps_features
    without = found._replace(features=None)
    assert torch.equal(method.choose(without, 10), SSP().choose(found, 10))
    with pytest.raises(ValueError, match=r"features of shape \(29, d\), floats, got \(30, 4\)"):
        method.choose(without._replace(num_samples=29), 10)


@pytest.mark.parametrize("name", CORESETS)
def test_names_make_methods(name):
    for spelled in (name, name.lower(), name.upper()):
        assert type(CoresetWarmup(spelled, 0.3).method) is CORESETS[name]


def test_words_with_underscores():
    assert type(CoresetWarmup("dyn_unc", 0.3).method) is DynUnc
    assert type(CoresetWarmup("small_loss", 0.3).method) is SmallLoss


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: CoresetWarmup("dul", 0.3), "Did you mean 'DUAL'"),
        (lambda: CoresetWarmup("dual", 1.0), r"fraction in \(0, 1\), got 1.0"),
        (lambda: CoresetWarmup("dual", 0.3, "kept.csv"), "path to end in .npy or .txt"),
        (lambda: CoresetRun("dual", 0.3, 9), r"warmup_epochs in \[10, inf\), got 9. DUAL looks"),
        (lambda: CoresetRun("moderate", 0.3, num_warmups=2), "to be 1 for Moderate, which does"),
        (lambda: CoresetRun("el2n", 0.3, if_exists="no"), "if_exists to be one of 'refuse'"),
        (lambda: Forgetting("never"), "never_learned to be one of 'zero', 'max'"),
        (lambda: DynUnc(1), r"window in \[2, inf\), got 1"),
        (lambda: DUAL(sampling="middle"), "sampling to be one of 'top', 'beta'"),
        (lambda: DUAL(sampling="beta", balanced=True), "balanced=False with sampling='beta'"),
        (lambda: DUAL(exponent=0), r"exponent in \(0, inf\), got 0"),
        (lambda: SSP(0), r"num_prototypes in \[1, inf\), got 0"),
        (lambda: Prune4ReL(0.4), r"threshold in \[0.5, 1\), got 0.4"),
        (lambda: Prune4ReL(eta=0), r"eta in \(0, inf\), got 0"),
    ],
)
def test_refusals(make, text):
    with pytest.raises(ValueError, match=text):
        make()


def test_moderate_is_the_middle():
    features = torch.arange(10.0).unsqueeze(1)
    found = Evidence(10, [], torch.zeros(10), torch.zeros(10, dtype=torch.int64), features)
    assert Moderate().choose(found, 5).tolist() == [1, 2, 3, 6, 7]


def test_prune4rel_picks_by_confidence_and_neighbourhood():
    features = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]])
    found = Evidence(3, [], torch.tensor([0.9, 0.8, 0.6]), LABELS, features)
    assert sorted(Prune4ReL().choose(found, 2).tolist()) == [0, 2]
