import torch

from lightning_alignprune.functional import (
    class_matrix,
    judge_by_comparison,
    judge_by_quality,
    most_suspicious_first,
    two_point_distribution,
)

NAN = float("nan")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(count, seed, shift=0.0):
    return torch.randn(count, generator=generator(seed)) + shift


def test_unknown_quality_is_no_issue():
    found = judge_by_quality(torch.tensor([NAN, 0.49, 0.5]), (0.3, 0.02), is_probability=True)
    assert found.is_issue.tolist() == [False, True, False]
    assert (found.noise_share, found.standard_error) == (0.3, 0.02)


def test_what_a_comparison_calls_is_mostly_wrong():
    scores = torch.cat([normal(3000, 1), normal(1000, 2, -4.0)])
    is_wrong = torch.arange(4000) >= 3000
    for reference in (normal(500, 3), None):
        found = judge_by_comparison(scores, reference)
        assert is_wrong[found.is_issue].float().mean() > 0.7
        assert found.is_issue[is_wrong].float().mean() > 0.9
        assert 0.15 < found.noise_share < 0.3
        assert (found.quality[found.is_issue] <= found.threshold).all()
        assert not found.is_probability


def test_on_right_labels_nothing_is_called():
    for reference in (normal(500, 3), None):
        found = judge_by_comparison(normal(3000, 1), reference)
        assert not found.is_issue.any()
        assert found.noise_share == 0.0 or reference is not None


def test_a_comparison_of_nothing_calls_nothing():
    found = judge_by_comparison(torch.full((4,), NAN))
    assert not found.is_issue.any()
    assert found.quality.isnan().all()


def test_the_matrix_counts_rows_as_given_and_leaves_out_the_unknown():
    given, label = torch.tensor([0, 0, 1, -1, 2]), torch.tensor([0, 2, 1, 1, 2])
    assert class_matrix(given, label, 3).tolist() == [[1, 0, 1], [0, 1, 0], [0, 0, 1]]


def test_of_equal_quality_the_larger_loss_comes_first_and_the_unknown_last():
    quality = torch.tensor([0.2, NAN, 0.2, 0.1, NAN])
    losses = torch.tensor([1.0, 5.0, 2.0, NAN, NAN])
    assert most_suspicious_first(quality, losses).tolist() == [3, 2, 0, 1, 4]


def test_probabilities_add_up_whatever_is_unknown():
    given = torch.tensor([0, 1, -1, 2])
    suggested = torch.tensor([1, -1, -1, 0])
    found = two_point_distribution(given, suggested, torch.tensor([0.2, 0.3, NAN, NAN]), 3)
    expected = [[0.2, 0.8, 0.0], [0.0, 1.0, 0.0], [1 / 3] * 3, [0.0, 0.0, 1.0]]
    torch.testing.assert_close(found, torch.tensor(expected))
