"""The counting behind every test of trained behaviour."""

import pytest
import torch

from tests.seeds import FALSE_ALARM, chance_of_fewer, enough, successes


def test_each_seed_is_run_once_from_its_own_random_state():
    seen = []
    count = successes(lambda seed: seen.append((seed, torch.rand(1).item())) or seed % 2 == 0)
    assert count == 4
    torch.manual_seed(3)
    assert seen[3] == (3, torch.rand(1).item())
    assert len({draw for _, draw in seen}) == 8


@pytest.mark.parametrize(("rate", "least"), [(1.0, 8), (0.9985, 7), (0.99, 6), (0.9, 3)])
def test_the_threshold_is_the_largest_without_false_alarms(rate, least):
    assert enough(rate) == least
    assert chance_of_fewer(least, 8, rate) < FALSE_ALARM
    assert least == 8 or chance_of_fewer(least + 1, 8, rate) >= FALSE_ALARM


def test_chances_are_those_of_a_fair_coin():
    assert chance_of_fewer(1, 2, 0.5) == pytest.approx(0.25)
    assert chance_of_fewer(2, 2, 0.5) == pytest.approx(0.75)
