"""Loss trajectories from lists, and states through a file."""

import io

import torch

from lightning_alignprune import LossTrajectories


def bank_of(rows, reference=None, **kwargs):
    """Record each row as an epoch; NaN entries are not recorded."""
    bank = LossTrajectories(len(rows[0]), **kwargs)
    for epoch, values in enumerate(rows):
        row = torch.tensor(values, dtype=torch.float32)
        seen = (~row.isnan()).nonzero().squeeze(1)
        bank.record(seen, row[seen])
        bank.close_epoch(epoch, None if reference is None else torch.tensor(reference[epoch]))
    return bank


def same(a, b):
    return torch.equal(a.nan_to_num(nan=-9.0), torch.as_tensor(b).nan_to_num(nan=-9.0))


def reloaded(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)
