"""SSP and Prune4ReL: literal values, and a slow greedy as judge."""

import pytest
import torch
import torch.nn.functional as F

from lightning_alignprune.functional import (
    cosine_kmeans,
    neighbourhood_gain,
    neighbourhood_subset,
    prototype_distance,
)

E = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]])
CONFIDENCE = torch.tensor([0.9, 0.8, 0.6])


def clusters(num_samples, size, spread=0.4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(10, size, generator=generator)
    which = torch.randint(10, (num_samples,), generator=generator)
    noise = torch.randn(num_samples, size, generator=generator)
    return centres[which] + spread * noise, which, torch.rand(num_samples, generator=generator)


def test_oracle_of_the_prototypes():
    found = prototype_distance(torch.tensor([[0.8, 0.6], [0.0, 1.0]]), torch.tensor([[1.0, 0.0]]))
    assert found.tolist() == pytest.approx([0.2, 1.0], abs=1e-6)


def test_kmeans_finds_clusters_and_leaves_no_centre_empty():
    features, which, _ = clusters(400, 16, spread=0.05)
    centres = cosine_kmeans(features, 10)
    nearest = (F.normalize(features, dim=1) @ centres.T).argmax(1)
    assert len(nearest.unique()) == 10
    assert all(len(nearest[which == k].unique()) == 1 for k in range(10))
    assert centres.norm(dim=1).tolist() == pytest.approx([1.0] * 10, abs=1e-5)
    assert torch.equal(centres, cosine_kmeans(features, 10))
    assert len(cosine_kmeans(features, 3, most_each=5)) == 3


def test_oracle_of_the_greedy():
    assert neighbourhood_gain(torch.zeros(3), CONFIDENCE).tolist() == pytest.approx(
        [0.716298, 0.664037, 0.537050], abs=1e-6
    )
    # After the first pick the neighbourhoods have .9, .897767 and 0.
    after = neighbourhood_gain(torch.tensor([0.9, 0.897767, 0.0]), CONFIDENCE)
    assert after.tolist() == pytest.approx([0.230508, 0.219921, 0.537050], abs=1e-6)
    assert neighbourhood_subset(E, CONFIDENCE, 2, threshold=0.95).tolist() == [0, 2]
    assert neighbourhood_subset(E, CONFIDENCE, 3, threshold=0.95).tolist() == [0, 2, 1]


def slow_picks(features, confidence, count, threshold, eta):
    points, confidence = F.normalize(features.double(), dim=1), confidence.double()
    reached, picks = torch.zeros_like(confidence), []
    for _ in range(count):
        gains = neighbourhood_gain(reached, confidence, eta)
        gains[picks] = -1
        picks.append(int(gains.argmax()))
        similarity = 0.5 + 0.5 * points @ points[picks[-1]]
        reached += torch.where(similarity > threshold, similarity * confidence[picks[-1]], 0)
    return picks


def test_more_clusters_than_the_root_of_n_are_told_apart():
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(200, 32, generator=generator).relu()
    features = centres.repeat(10, 1) + 0.1 * torch.randn(2000, 32, generator=generator)
    confidence = 0.1 + 0.9 * torch.rand(2000, generator=generator)
    few = neighbourhood_subset(features, confidence, 600, most_pairs=600 * 400)  # of 2000 each
    assert few[:100].tolist() == slow_picks(features, confidence, 100, 0.95, 1.0)


@pytest.mark.parametrize(
    ("num_samples", "size", "threshold", "eta"),
    [(60, 3, 0.95, 1.0), (900, 12, 0.9, 1.0), (900, 12, 0.6, 10.0), (700, 3, 0.975, 2.0)],
)
def test_cells_miss_no_neighbour(num_samples, size, threshold, eta):
    features, _, confidence = clusters(num_samples, size)
    count, confidence = num_samples // 5, 0.1 + 0.9 * confidence
    ours = neighbourhood_subset(features, confidence, count, threshold, eta)
    assert ours.tolist() == slow_picks(features, confidence, count, threshold, eta)


def test_all_can_be_picked_and_a_feature_of_length_0_too():
    features, _, confidence = clusters(600, 4)
    features[7] = 0
    picks = neighbourhood_subset(features, confidence + 0.01, 600, threshold=0.8)
    assert sorted(picks.tolist()) == list(range(600))


def test_the_least_reached_is_ahead_where_tanh_is_1():
    features = torch.tensor([[1.0, 0.0]] * 60 + [[0.0, 1.0]] * 20)
    picks = neighbourhood_subset(features, torch.ones(80), 80, threshold=0.9)
    assert (picks[:40] >= 60).sum() == 20  # turn about, though every gain is soon 0 in float32


def test_a_set_that_it_cannot_serve_is_refused_before_it_begins():
    features, _, confidence = clusters(600, 4)
    text = (
        r"at most 1e\+03 similarities, got about .* for 300 picks of 600 samples. Raise threshold"
    )
    with pytest.raises(ValueError, match=text):
        neighbourhood_subset(features, confidence + 0.01, 300, most_pairs=1000)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"count": 4}, r"count in \[1, 3\], got 4"),
        ({"threshold": 1.0}, r"threshold in \[0.5, 1\), got 1.0"),
        ({"confidence": CONFIDENCE[:2]}, r"confidence of shape \(3,\), got \(2,\)"),
        ({"confidence": torch.tensor([0.9, 0.0, 1.0])}, "others for sample 1"),
        ({"features": E * torch.tensor([[1.0], [1.0], [torch.inf]])}, "others for sample 2"),
    ],
)
def test_refusals(change, text):
    with pytest.raises(ValueError, match=text):
        neighbourhood_subset(**({"features": E, "confidence": CONFIDENCE, "count": 2} | change))
    with pytest.raises(ValueError, match=r"num_prototypes in \[1, 3\], got 4"):
        cosine_kmeans(E, 4)
