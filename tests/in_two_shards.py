"""Run a selection on two shards of a data set in lockstep, as two ranks would."""

import threading

import torch


def in_two_shards(select, num_samples):
    """Run ``select(part, all_reduce)`` on two parts in lockstep and join what they return."""
    barrier, slots, results = threading.Barrier(2, timeout=30), [None, None], [None, None]

    def run(rank, part):
        def all_reduce(value):
            slots[rank] = value
            barrier.wait()
            total = slots[0] + slots[1]
            barrier.wait()
            return total

        results[rank] = select(part, all_reduce)

    first_size = num_samples // 3
    parts = [slice(0, first_size), slice(first_size, num_samples)]
    threads = [threading.Thread(target=run, args=item) for item in enumerate(parts)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return torch.cat(results)
