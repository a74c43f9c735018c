"""What a trained network does is counted over seeds; one seed shows nothing about another machine.

Sums are taken in another order by another number of threads or another instruction set. The last
digit of a loss then differs, a few epochs later so does the network, and one run is as good as a
run with another seed. What holds on every machine is how often it comes out.
"""

import os
from collections.abc import Callable, Iterable
from math import comb

import lightning.pytorch as pl

SEEDS = range(int(os.environ.get("ALIGNPRUNE_TEST_SEEDS", "8")))
FALSE_ALARM = 1e-4


def successes(run: Callable[[int], bool], seeds: Iterable[int] = SEEDS) -> int:
    """In how many seeds ``run(seed)`` is true. Each starts from global random states of its own."""
    count = 0
    for seed in seeds:
        pl.seed_everything(seed, verbose=False)
        count += bool(run(seed))
    return count


def chance_of_fewer(least: int, num_seeds: int, rate: float) -> float:
    """P(X < least) for X successes of ``num_seeds`` that each come with chance ``rate``."""
    return sum(comb(num_seeds, k) * rate**k * (1 - rate) ** (num_seeds - k) for k in range(least))


def enough(rate: float, num_seeds: int = len(SEEDS)) -> int:
    """Return the most successes that may be asked for where each comes with chance ``rate``.

    With fewer the test fails though all is well; that has a chance below ``FALSE_ALARM``. Of eight:
    7 at a rate of 0.9985, 6 at 0.99, 3 at 0.9.
    """
    least = num_seeds
    while chance_of_fewer(least, num_seeds, rate) >= FALSE_ALARM:
        least -= 1
    return least
