"""Losses of right and wrong labels whose distributions are known."""

import torch

from lightning_alignprune.functional import reference_rank


def generator(seed):
    return torch.Generator().manual_seed(seed)


def right_losses(count, rng, head_start=1.0):
    """Normal losses; who is trained on has the head start over a held-out reference."""
    return -torch.special.ndtri(torch.rand(count, generator=rng) ** (1 / head_start))


def ranks_of(num_right, num_wrong, num_reference, seed, shift=2.0, head_start=1.0):
    """Ranks among a reference; wrong labels lie higher than the right ones."""
    rng = generator(seed)
    right = right_losses(num_right, rng, head_start)
    wrong = torch.randn(num_wrong, generator=rng) + shift
    reference = torch.randn(num_reference, generator=rng)
    is_wrong = torch.arange(num_right + num_wrong) >= num_right
    return reference_rank(torch.cat([right, wrong]), reference), is_wrong
