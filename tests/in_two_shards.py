"""Run work on the shards of a data set in lockstep, as the ranks of a process group would."""

import threading
from concurrent.futures import ThreadPoolExecutor

import torch


def in_lockstep(work, num_ranks):
    """Run ``work(rank, all_reduce)`` as each rank; return what each returned."""
    barrier, slots = threading.Barrier(num_ranks, timeout=60), [None] * num_ranks

    def run(rank):
        def all_reduce(value):
            slots[rank] = value
            barrier.wait()
            total = sum(slots[1:], slots[0])
            barrier.wait()
            return total

        try:
            return work(rank, all_reduce)
        except BaseException:
            barrier.abort()
            raise

    with ThreadPoolExecutor(num_ranks) as pool:
        ended = [pool.submit(run, rank) for rank in range(num_ranks)]
    # What went wrong first, and not that the others waited for it in vain.
    ended.sort(key=lambda each: isinstance(each.exception(), threading.BrokenBarrierError))
    return [each.result() for each in ended]


def in_two_shards(select, num_samples):
    """Run ``select(part, all_reduce)`` on two parts in lockstep and join what they return."""
    first_size = num_samples // 3
    parts = [slice(0, first_size), slice(first_size, num_samples)]
    return torch.cat(in_lockstep(lambda rank, reduce: select(parts[rank], reduce), 2))
