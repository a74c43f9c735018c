"""A checkpoint that an older version wrote goes on as that version would have gone on.

``data/checkpoint_0.1.ckpt`` was saved by version 0.1 in the middle of epoch 5 of the run below, and
``data/checkpoint_0.1_expected.pt`` holds what version 0.1 did after resuming from it.
``python -m tests.integration.test_old_checkpoint FOLDER`` makes the two anew with the version that
is installed; keep the old ones when the state changes.
"""

import sys
from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from torch.utils.data import DataLoader

from lightning_alignprune import DynamicAlignment, DynamicPruningCallback
from tests.conftest import TinyModule, make_data, make_trainer

DATA = Path(__file__).parent / "data"
CHECKPOINT, EXPECTED = "checkpoint_0.1.ckpt", "checkpoint_0.1_expected.pt"


class Scheduled(TinyModule):
    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)
        steps = int(self.trainer.estimated_stepping_batches)
        scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.3, total_steps=steps)
        return [optimizer], [{"scheduler": scheduler, "interval": "step"}]


class SaveInMidEpoch(Callback):
    def __init__(self, path):
        self.path = path

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if trainer.current_epoch == 5 and batch_idx == 2:
            trainer.save_checkpoint(self.path)


def run(*callbacks, **kwargs):
    """Train a classifier for eight epochs; return what was decided and learned."""
    torch.manual_seed(0)
    module = Scheduled(batch_norm=True)
    pruning = DynamicPruningCallback(
        score=DynamicAlignment(window=4, min_observations=3),
        reference=make_data(30, seed=2, noise=0.0),
        seed=3,
        restore_rng=True,
    )
    trainer = make_trainer(pruning, *callbacks, max_epochs=8)
    trainer.fit(module, DataLoader(make_data(64), batch_size=8, shuffle=True), **kwargs)
    return {
        "weights": dict(module.state_dict()),
        "losses": torch.stack([row.float() for row in pruning.trajectories.rows]),
        "epochs": list(pruning.trajectories.epochs),
    }


@pytest.mark.filterwarnings("ignore:The loaded checkpoint was produced with Lightning")
@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch")
def test_an_old_checkpoint_goes_on_as_it_would_have():
    expected = torch.load(DATA / EXPECTED, weights_only=True)
    resumed = run(ckpt_path=DATA / CHECKPOINT)
    assert resumed["epochs"] == expected["epochs"]
    # Who was trained, to the sample; the numbers up to another processor's rounding.
    assert torch.equal(resumed["losses"].isnan(), expected["losses"].isnan())
    assert bool(expected["losses"].isnan().any())
    close = {"rtol": 0.02, "atol": 0.02}
    torch.testing.assert_close(resumed["losses"], expected["losses"], equal_nan=True, **close)
    torch.testing.assert_close(resumed["weights"], expected["weights"], **close)


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    run(SaveInMidEpoch(folder / CHECKPOINT))
    torch.save(run(ckpt_path=folder / CHECKPOINT), folder / EXPECTED)
