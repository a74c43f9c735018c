"""pytorch-forecasting: its own LightningModules and data sets, as they are."""

from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pandas as pd
from _check import Client
from pytorch_forecasting import DeepAR, NBeats, TemporalFusionTransformer, TimeSeriesDataSet
from pytorch_forecasting.data import NaNLabelEncoder
from pytorch_forecasting.metrics import (
    MAE,
    SMAPE,
    CrossEntropy,
    Metric,
    NormalDistributionLoss,
    QuantileLoss,
)
from torch import Tensor

ENCODER, DECODER = 8, 4


def frame() -> pd.DataFrame:
    """Return four noisy waves of 30 days, and whether each day is above zero."""
    rng = np.random.default_rng(0)
    days = np.tile(np.arange(30), 4)
    series = np.repeat(list("abcd"), 30)
    value = np.sin(days / 3) + 0.2 * rng.standard_normal(120) + 2
    state = np.where(value > 2, "high", "low")
    return pd.DataFrame({"day": days, "series": series, "value": value, "state": state})


def series(target: str = "value", **settings: Any) -> TimeSeriesDataSet:
    return TimeSeriesDataSet(
        frame(),
        time_idx="day",
        target=target,
        group_ids=["series"],
        max_encoder_length=ENCODER,
        max_prediction_length=DECODER,
        time_varying_unknown_reals=["value"],
        **settings,
    )


def days_of_states(decoder: int) -> TimeSeriesDataSet:
    return TimeSeriesDataSet(
        frame(),
        time_idx="day",
        target="state",
        group_ids=["series"],
        max_encoder_length=ENCODER,
        max_prediction_length=decoder,
        time_varying_unknown_categoricals=["state"],
        target_normalizer=NaNLabelEncoder(),
    )


def loader_of(data: Callable[[], TimeSeriesDataSet]) -> Callable[[], Any]:
    return lambda: data().to_dataloader(train=True, batch_size=8, num_workers=0)


def transformer(
    loss: Callable[[], Metric],
    data: Callable[[], TimeSeriesDataSet],
    output_size: int,
    module: type[TemporalFusionTransformer] = TemporalFusionTransformer,
) -> Callable[[], pl.LightningModule]:
    sizes = {"hidden_size": 8, "hidden_continuous_size": 4, "attention_head_size": 1}
    return lambda: module.from_dataset(
        data(), **sizes, dropout=0.0, loss=loss(), output_size=output_size
    )


class Quantiles(TemporalFusionTransformer):
    """The loss of each series from the same metric, its mean taken last."""

    def training_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        x, (target, _) = batch
        losses = self.loss.loss(self(x)["prediction"], target).mean((1, 2))
        return {"loss": losses.mean(), "sample_loss": losses}

    def on_train_epoch_end(self) -> None:
        """Leave out what the library gathers of its own steps."""


def n_beats() -> pl.LightningModule:
    return NBeats.from_dataset(series(), widths=[16, 16], num_blocks=[1, 1], loss=SMAPE())


def deep_ar() -> pl.LightningModule:
    return DeepAR.from_dataset(
        series(), hidden_size=8, rnn_layers=1, dropout=0.0, loss=NormalDistributionLoss()
    )


CLIENTS = [
    Client(
        "TemporalFusionTransformer, `QuantileLoss`",
        transformer(QuantileLoss, series, 7),
        loader_of(series),
    ),
    Client(
        "TemporalFusionTransformer, `sample_loss` returned",
        transformer(QuantileLoss, series, 7, Quantiles),
        loader_of(series),
    ),
    Client(
        "TemporalFusionTransformer, `MAE`",
        transformer(MAE, series, 1),
        loader_of(series),
    ),
    Client(
        "TemporalFusionTransformer, `CrossEntropy` of four days",
        transformer(CrossEntropy, lambda: days_of_states(4), 2),
        loader_of(lambda: days_of_states(4)),
    ),
    Client(
        "TemporalFusionTransformer, `CrossEntropy` of one day",
        transformer(CrossEntropy, lambda: days_of_states(1), 2),
        loader_of(lambda: days_of_states(1)),
    ),
    Client("N-BEATS, `SMAPE`", n_beats, loader_of(series)),
    Client("DeepAR, `NormalDistributionLoss`", deep_ar, loader_of(series)),
]
