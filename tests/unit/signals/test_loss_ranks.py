"""`RankAverages`: which epochs count, and for which samples."""

import pytest
import torch

from lightning_alignprune.functional.mixture import reference_rank
from lightning_alignprune.signals._loss_ranks import RankAverages
from tests.banks import reloaded

NAN = float("nan")
REFERENCE = torch.tensor([1.0, 2.0, 3.0, 4.0])


def followed(*epochs):
    averages = RankAverages()
    for reference, losses in epochs:
        averages.follow(reference)
        averages.add(torch.tensor(losses))
    return averages


def test_there_is_nothing_before_the_first_epoch():
    averages = RankAverages()
    assert averages.means is None
    averages.add(torch.ones(3))
    assert averages.means is None, "no reference yet"


def test_an_older_epoch_weighs_nine_tenths():
    found = followed((REFERENCE, [0.0, 2.5, 9.0]), (REFERENCE - 0.5, [0.0, 0.5, NAN])).means
    first = reference_rank(torch.tensor([0.0, 2.5, 9.0]), REFERENCE)
    second = reference_rank(torch.tensor([0.0, 0.5]), REFERENCE - 0.5)
    torch.testing.assert_close(found.samples[:2], (0.9 * first[:2] + second) / 1.9)
    assert found.samples[2] == first[2], "it was not seen in the second"
    torch.testing.assert_close(found.reference, reference_rank(REFERENCE, REFERENCE))


@pytest.mark.parametrize("worse", [REFERENCE + 0.1, REFERENCE * NAN, REFERENCE[:3] - 0.5])
def test_an_epoch_that_does_not_count_changes_nothing(worse):
    before = followed((REFERENCE, [0.0, 2.5]))
    after = followed((REFERENCE, [0.0, 2.5]), (worse, [9.0, 0.0]))
    assert after.means.samples.equal(before.means.samples)
    assert after.means.reference.equal(before.means.reference)


def test_a_sample_that_was_never_seen_has_no_rank():
    assert followed((REFERENCE, [NAN, 2.5])).means.samples.isnan().tolist() == [True, False]


def test_state_round_trip_between_the_pass_and_the_rows():
    through = followed((REFERENCE, [0.0, 2.5]))
    through.follow(REFERENCE - 0.5)
    other = RankAverages()
    other.load_learned(reloaded(through.learned()))
    other.load_of_samples(reloaded({"parts": through.of_samples()})["parts"])
    for averages in (through, other):
        averages.add(torch.tensor([4.0, 0.0]))
    assert other.means.samples.equal(through.means.samples)
    assert other.means.reference.equal(through.means.reference)
