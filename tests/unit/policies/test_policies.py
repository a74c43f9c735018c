import pytest
import torch

from lightning_alignprune import (
    IES,
    RS2,
    UCB,
    DynamicRandom,
    EpsilonGreedy,
    InfoBatch,
    LossTrajectories,
    OrderDP,
    RePB,
    SelectionContext,
    SeTa,
    StaticSubset,
)
from lightning_alignprune.policies import POLICIES
from lightning_alignprune.state.index_file import write_indices
from tests import oracles
from tests.banks import bank_of, reloaded
from tests.in_two_shards import in_two_shards

NAN = float("nan")


def context(n, epoch=1, num_selections=0, bank=None, **kwargs):
    bank = bank or LossTrajectories(n)
    return SelectionContext(epoch, num_selections, 0, torch.arange(n), bank, **kwargs)


def test_names_make_policies_without_arguments():
    assert set(POLICIES) == {
        "InfoBatch", "SeTa", "DynamicRandom", "StaticSubset", "IES", "EpsilonGreedy", "UCB",
        "MixtureCut", "PosteriorCut", "RePB", "OrderDP", "RS2",
    }  # fmt: skip
    scores = torch.rand(20, generator=torch.Generator().manual_seed(0))
    for name, make in POLICIES.items():
        kept = make().select(scores, context(20)).kept
        assert kept.shape == (20,), name
        assert kept.any(), name


@pytest.mark.parametrize("name", sorted(set(POLICIES) - {"StaticSubset", "DynamicRandom", "RS2"}))
@pytest.mark.parametrize("value", [NAN, 1.0])
def test_undefined_scores_are_kept(name, value):
    scores = torch.full((12,), NAN)
    scores[0] = value
    assert POLICIES[name]().select(scores, context(12)).kept[1:].all()


def test_infobatch_keep_floor():
    scores = torch.cat([torch.zeros(100), torch.ones(100)])
    kept, weights = InfoBatch(1.0, keep_floor=0.1).select(scores, context(200))
    assert int(kept[:100].sum()) == 10
    assert float(weights[:100][kept[:100]].max()) == 10.0
    assert InfoBatch(1.0, keep_floor=0.1).keep_fraction == pytest.approx(0.1)


def test_seta_slides_from_the_easy_end():
    scores = torch.arange(5.0).repeat_interleave(2) * 10
    policy = SeTa(num_groups=5, window_fraction=0.6, prune_probability=0.0)

    def groups(end, i):
        kept = policy.select(scores, context(10, num_selections=i, easy_end=end)).kept
        return torch.unique(scores[kept] / 10).int().tolist()

    assert [groups("low", i) for i in range(4)] == [[1, 2, 3], [2, 3, 4], [0, 1, 2], [1, 2, 3]]
    assert [groups("high", i) for i in range(3)] == [[1, 2, 3], [0, 1, 2], [2, 3, 4]]
    policy.easy_end = "low"
    assert groups("high", 1) == [2, 3, 4]


def test_seta_drops_its_random_share_and_finishes_on_one():
    policy = SeTa(num_groups=1, window_fraction=1.0, prune_probability=0.1)
    scores = torch.rand(50_000, generator=torch.Generator().manual_seed(0))
    assert int(policy.select(scores, context(50_000)).kept.sum()) == 45_000
    assert policy.finish == "partial"
    assert policy.keep_fraction == pytest.approx(0.9)


def test_dynamic_random_keeps_an_exact_count_anew_each_epoch():
    policy = DynamicRandom(0.3)
    kept = [policy.select(torch.zeros(10), context(10, epoch=e)).kept for e in range(2_000)]
    assert {int(k.sum()) for k in kept} == {7}
    frequency = torch.stack(kept).float().mean(0)
    assert frequency.tolist() == pytest.approx([0.7] * 10, abs=0.05)
    assert policy.finish == "selected"


def test_static_subset_is_the_same_in_every_epoch_and_depends_on_the_seed():
    policy, scores = StaticSubset(0.3), torch.zeros(10)
    first = policy.select(scores, context(10, epoch=1)).kept
    assert int(first.sum()) == 7
    assert torch.equal(policy.select(scores, context(10, epoch=9)).kept, first)
    bank = LossTrajectories(10)
    others = [SelectionContext(1, 0, seed, torch.arange(10), bank) for seed in range(1, 6)]
    assert any(not torch.equal(policy.select(scores, o).kept, first) for o in others)


def test_static_subset_of_given_indices(tmp_path):
    path = write_indices(tmp_path / "kept.txt", torch.tensor([4, 1]))
    for indices in ([4, 1], path, str(path)):
        kept = StaticSubset(indices=indices).select(torch.zeros(5), context(5)).kept
        assert kept.nonzero().flatten().tolist() == [1, 4]
    with pytest.raises(ValueError, match="indices below the 4 samples of the training set, got 4"):
        StaticSubset(indices=[4]).select(torch.zeros(4), context(4))
    for bad, got in (([], "none"), ([3, 1, 3], "3 twice"), ([2, -1], "-1")):
        with pytest.raises(
            ValueError, match=rf"distinct sample numbers from 0 on, got '?{got}'?\. "
        ):
            StaticSubset(indices=bad)


IES_LOSSES = [2, 1.2, 0.7, 0.45, 0.33, 0.28, 0.26, 0.253, 0.2505, 0.2497, 0.2494, 0.2492]


def test_ies_oracle():
    for stop, expected in ((11, 0.002233), (12, 0.000767)):
        mean = oracles.mean_second_difference(IES_LOSSES[:stop])
        assert mean == pytest.approx(expected, abs=1e-6)
        bank = bank_of([[x] for x in IES_LOSSES[:stop]], window=16)
        kept = IES(1e-3).select(torch.zeros(1), context(1, bank=bank)).kept
        assert kept.item() == (mean >= 1e-3)
    assert (
        not IES(3e-3)
        .select(torch.zeros(1), context(1, bank=bank_of([[x] for x in IES_LOSSES[:11]], window=16)))
        .kept
    )


def test_ies_needs_six_losses_and_skips_unseen_epochs():
    flat = [[1.0, 1.0], [1.0, NAN], [1.0, 1.0], [1.0, 1.0], [1.0, 1.0], [1.0, 1.0]]
    bank = bank_of(flat, window=16)
    assert IES().select(torch.zeros(2), context(2, bank=bank)).kept.tolist() == [False, True]


def test_ies_looks_again_after_the_revisit_time():
    policy = IES(revisit_epochs=3)
    bank = LossTrajectories(1, window=policy.window)
    trained = []
    is_kept = True
    for epoch in range(20):
        trained.append(is_kept)
        if is_kept:
            bank.record(torch.tensor([0]), torch.tensor([1.0]))
        bank.close_epoch(epoch)
        is_kept = bool(policy.select(torch.zeros(1), context(1, bank=bank)).kept)
    assert trained[:11] == [True] * 6 + [False] * 3 + [True] + [False]
    assert 0 < sum(trained[6:]) < 10


def run_bandit(policy, losses):
    bank = LossTrajectories(len(losses[0]))
    for epoch, row in enumerate(losses):
        bank.running = torch.tensor(row)
        bank.close_epoch(epoch)
        selection = policy.select(bank.last, context(len(row), epoch + 1, bank=bank))
    return selection


def test_bandit_oracle():
    policy = UCB(prune_fraction=0.0)
    run_bandit(policy, [[2.0], [1.0]])
    assert policy.mean.item() == pytest.approx(1.12)
    assert policy.variance.item() == pytest.approx(0.928)
    assert (policy.mean + policy.confidence * policy.variance).item() == pytest.approx(2.048)


def test_bandits_do_not_learn_from_a_sample_that_was_not_trained():
    policy = EpsilonGreedy(0.5)
    run_bandit(policy, [[2.0, 2.0], [1.0, NAN], [1.0, NAN]])
    assert policy.mean[1].item() == pytest.approx(1.6)
    assert policy.mean[0].item() == pytest.approx(0.2 * 1.12 + 0.8)


def test_epsilon_greedy_keeps_the_best_and_some_others():
    losses = [list(map(float, range(100)))]
    kept = run_bandit(EpsilonGreedy(0.5, epsilon=0.2), losses).kept
    assert int(kept.sum()) == 50
    assert kept[60:].all()
    assert int(kept[:60].sum()) == 10
    assert run_bandit(EpsilonGreedy(0.5, epsilon=0.0), losses).kept[50:].all()


def test_ucb_prefers_a_score_that_moves():
    losses = [[1.0, 0.0], [1.0, 2.0]]
    assert run_bandit(UCB(0.5, confidence=5.0), losses).kept.tolist() == [False, True]


def test_bandit_state_round_trip():
    losses = torch.rand(4, 9, generator=torch.Generator().manual_seed(0)).tolist()
    whole, copy = UCB(0.4), UCB(0.4)
    expected = run_bandit(whole, losses).kept
    first = UCB(0.4)
    run_bandit(first, losses[:2])
    copy.load_state_dict(reloaded(first.state_dict()))
    assert torch.equal(run_bandit(copy, losses[2:]).kept, expected)
    assert torch.equal(copy.mean, whole.mean)
    assert EpsilonGreedy().state_dict() == {"mean": None, "variance": None}


def test_repb_compares_with_the_batch_and_lets_back_in():
    # Trained and hard, trained and easy, left out: three groups of 1,000.
    scores = torch.tensor([0.5, -0.5, 0.5]).repeat_interleave(1_000)
    row = torch.where(torch.arange(3_000) < 2_000, scores, NAN)
    bank = bank_of([scores.tolist(), row.tolist()])
    policy = RePB(0.7)
    policy.select(scores, context(3_000, bank=bank_of([scores.tolist()])))
    kept, weights = policy.select(scores, context(3_000, epoch=2, bank=bank))
    shares = kept.view(3, 1_000).float().mean(1).tolist()
    assert shares[0] == 1.0
    assert shares[1:] == pytest.approx([0.3, 0.3], abs=0.05)
    # Two epochs, of which the last group trained one.
    assert weights.view(3, 1_000)[:, 0].tolist() == [1.0, 1.0, 2.0]
    plain = RePB(0.7, rescale="none").select(scores, context(3_000, epoch=2, bank=bank))
    assert plain.weights is None


def test_repb_counts_unselected_epochs_as_trained_by_all_and_keeps_its_counts():
    rows = [[1.0, 1.0], [1.0, NAN]]
    scores = torch.tensor([1.0, -1.0])
    policy = RePB(1.0)
    policy.select(scores, context(2, epoch=5, bank=bank_of(rows[:1])))  # five full epochs before
    other = RePB(1.0)
    other.load_state_dict(reloaded(policy.state_dict()))
    assert policy.state_dict()["num_trained"].tolist() == [5, 5]
    for made in (policy, other):
        made.select(scores, context(2, epoch=6, bank=bank_of(rows)))
        assert made.state_dict()["num_trained"].tolist() == [6, 5]


def test_orderdp_keeps_an_exact_share_the_best_of_a_random_pool():
    scores = torch.arange(200.0)
    policy = OrderDP(0.5, 0.2)
    kept = [policy.select(scores, context(200, epoch=e)).kept for e in range(50)]
    assert {int(k.sum()) for k in kept} == {20}
    assert policy.keep_fraction == pytest.approx(0.1)
    assert not torch.equal(kept[0], kept[1])
    seldom, often = torch.stack(kept).float().mean(0).view(2, 100).mean(1).tolist()
    assert seldom == 0.0
    assert often == pytest.approx(0.2)
    best = OrderDP(1.0, 0.1).select(scores, context(200)).kept
    assert best.nonzero().flatten().tolist() == list(range(180, 200))


@pytest.mark.parametrize(("num_samples", "count"), [(12, 4), (10, 4), (7, 5)])
def test_rs2_sees_every_sample_once_before_any_twice(num_samples, count):
    policy = RS2(1 - count / num_samples)
    seen = torch.zeros(num_samples, dtype=torch.int64)
    for epoch in range(1, 40):
        drawn = policy.select(torch.zeros(num_samples), context(num_samples, epoch)).kept
        assert int(drawn.sum()) == count
        seen += drawn
        assert int(seen.max() - seen.min()) <= 1 + (num_samples % count > 0)
        copy = RS2(1 - count / num_samples)
        copy.load_state_dict(reloaded(policy.state_dict()))
        policy = copy
    assert int(seen.sum()) == 39 * count


@pytest.mark.parametrize(
    "name", ["DynamicRandom", "StaticSubset", "EpsilonGreedy", "UCB", "RePB", "OrderDP", "RS2"]
)
def test_shares_select_what_the_whole_selects(name):
    scores = torch.rand(40, generator=torch.Generator().manual_seed(2))
    whole = POLICIES[name]().select(scores, context(40)).kept
    indices = torch.arange(40)

    def select(part, reduce):
        bank = LossTrajectories(len(indices[part]))
        share = SelectionContext(1, 0, 0, indices[part], bank, all_reduce=reduce)
        return POLICIES[name]().select(scores[part], share).kept

    assert torch.equal(in_two_shards(select, 40), whole)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: InfoBatch(1.5), r"InfoBatch: expected prune_probability in \[0, 1\], got 1.5"),
        (lambda: SeTa(num_groups=0), r"SeTa: expected num_groups in \[1, inf\), got 0"),
        (lambda: SeTa(window_fraction=0.1), r"SeTa: expected window_fraction in \(0.1, 1\], got"),
        (lambda: SeTa(prune_probability=1.0), r"prune_probability in \[0, 1\), got 1.0"),
        (lambda: SeTa(easy_end="left"), "easy_end to be one of"),
        (lambda: DynamicRandom(1.0), r"DynamicRandom: expected prune_fraction in \[0, 1\), got"),
        (lambda: StaticSubset(-0.1), r"StaticSubset: expected prune_fraction in \[0, 1\), got"),
        (lambda: IES(0.0), r"IES: expected threshold in \(0, inf\), got 0.0"),
        (lambda: IES(revisit_epochs=0), r"IES: expected revisit_epochs in \[1, inf\), got 0"),
        (lambda: EpsilonGreedy(epsilon=2.0), r"EpsilonGreedy: expected epsilon in \[0, 1\], got"),
        (lambda: UCB(confidence=-1.0), r"UCB: expected confidence in \[0, inf\), got -1.0"),
        (lambda: RePB(1.5), r"RePB: expected prune_probability in \[0, 1\], got 1.5"),
        (lambda: RePB(rescale="mean"), "RePB: expected rescale to be one of"),
        (lambda: OrderDP(0.0), r"OrderDP: expected pool_fraction in \(0, 1\], got 0.0"),
        (lambda: OrderDP(0.5, 2.0), r"OrderDP: expected top_fraction in \(0, 1\], got 2.0"),
        (lambda: RS2(1.0), r"RS2: expected prune_fraction in \[0, 1\), got 1.0"),
        (lambda: UCB(newest_share=0.0), r"UCB: expected newest_share in \(0, 1\], got 0.0"),
    ],
)
def test_refusals(make, text):
    with pytest.raises(ValueError, match=text):
        make()
