"""A user's own score and policy, from Python and from YAML."""

import pytest
import torch
from lightning.pytorch.cli import LightningCLI
from torch.utils.data import DataLoader

from lightning_alignprune import DynamicPruningCallback
from tests.conftest import TinyModule, make_data, make_trainer
from tests.integration.own_parts import KeepTop, LossDrop

YAML = """
seed_everything: 3
trainer:
  accelerator: cpu
  devices: 1
  max_epochs: 6
  logger: false
  enable_checkpointing: false
  enable_progress_bar: false
  enable_model_summary: false
  callbacks:
    - class_path: lightning_alignprune.DynamicPruningCallback
      init_args:
        score:
          class_path: tests.integration.own_parts.LossDrop
          init_args: {window: 3}
        policy:
          class_path: tests.integration.own_parts.KeepTop
          init_args: {keep_fraction: 0.7}
        schedule: {stop_fraction: 1.0}
"""


class WithLoader(TinyModule):
    def train_dataloader(self):
        return DataLoader(make_data(), 8, shuffle=True)


def check(callback):
    assert isinstance(callback.score, LossDrop)
    assert callback.trajectories.window == 3
    trained = [int((~row.isnan()).sum()) for row in callback.trajectories.rows]
    assert 0 < min(trained) < 100


def test_from_python():
    callback = DynamicPruningCallback(LossDrop(window=3), KeepTop(0.7))
    make_trainer(callback, max_epochs=6).fit(WithLoader())
    check(callback)


@pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*args parameter is intended to run from within Python")
def test_from_yaml(tmp_path):
    (tmp_path / "config.yaml").write_text(YAML)
    cli = LightningCLI(
        WithLoader,
        args=["fit", "--config", str(tmp_path / "config.yaml")],
        save_config_callback=None,
    )
    (callback,) = (c for c in cli.trainer.callbacks if isinstance(c, DynamicPruningCallback))
    check(callback)
    assert isinstance(callback.policy, KeepTop)
    assert callback.policy.keep_fraction == pytest.approx(0.7)
    assert torch.isfinite(cli.model.net[0].weight).all()
