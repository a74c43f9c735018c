"""`RunningFit`: the three objects of a fit that whatever runs steps in it needs."""

from typing import NamedTuple

from lightning.pytorch import LightningModule, Trainer

from lightning_alignprune.trainer_access.ranks import RankExchange


class RunningFit(NamedTuple):
    """A Trainer, the module that it trains, and the way to the other ranks."""

    trainer: Trainer
    module: LightningModule
    exchange: RankExchange
