"""What a run says of its labels: in the process, from a checkpoint, on ranks, from the shell.

How well it fits the truth is counted in ``test_label_posterior.py``, on runs that are made there.
"""

import csv
import sys
from functools import partial

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from sklearn.metrics import roc_auc_score
from torch.utils.data import DataLoader

from lightning_alignprune import (
    BatchLoss,
    DynamicAlignment,
    DynamicPruningCallback,
    InfoBatch,
    LabelIssues,
    MeanLoss,
    PruningSchedule,
    TimeAverage,
    WrongEvents,
)
from lightning_alignprune.audit import label_issues, read_checkpoint
from lightning_alignprune.cli import main
from tests.conftest import TinyModule, make_data, make_trainer
from tests.integration.ranked_fits import fit as fit_on_ranks
from tests.integration.test_old_checkpoint import CHECKPOINT, DATA

WATCH = {"policy": InfoBatch(0.0)}
POSTERIOR = {"score": "LabelPosterior", "signal": "LabelOdds"}


def separated(issues, is_wrong):
    return roc_auc_score(is_wrong, -np.nan_to_num(issues.label_quality, nan=1.0))


# ---- the table ---------------------------------------------------------------------------------


class Knowing(TinyModule):
    """Answers like one who knows the true classes, so that one epoch is enough to judge."""

    def forward(self, x):
        return 8 * x[:, :3] + 0 * super().forward(x)


def fit(callback=None, *extra, noise=0.3, module=None, epochs=4, num_samples=300, **kwargs):
    pl.seed_everything(2, verbose=False)
    callback = callback or DynamicPruningCallback(
        **POSTERIOR, **WATCH, reference=make_data(100, seed=2, noise=0.0)
    )
    trainer = make_trainer(callback, *extra, max_epochs=epochs)
    loader = DataLoader(make_data(num_samples, noise=noise), 16, shuffle=True)
    trainer.fit(module or Knowing(), loader, **kwargs)
    return callback


def test_the_table_has_a_row_for_each_sample_the_most_suspicious_first():
    issues = fit().label_issues()
    data = make_data(300, noise=0.3)
    true = data.tensors[0][:, :3].argmax(1)
    table = issues.table
    assert sorted(table["index"]) == list(range(300))
    assert table["label_quality"].is_monotonic_increasing
    assert (data.tensors[1][table["index"].to_list()] == torch.tensor(table["given_label"])).all()
    wrong = table[table["is_issue"]]
    assert len(wrong) == issues.num_issues > 50
    assert (
        true[wrong["index"].to_list()] == torch.tensor(wrong["suggested_label"].to_list())
    ).all()
    assert (table["probability_right"] == table["label_quality"]).all()
    assert table["loss_epoch_3"].notna().all()
    assert issues.matrix.sum() == 300
    assert issues.matrix.diagonal().sum() == 300 - issues.num_issues
    share = float((data.tensors[1] != true).float().mean())
    assert abs(issues.noise_share - share) < 0.05
    assert "labels look wrong" in str(issues)


def test_who_is_cut_and_since_when():
    schedule = PruningSchedule(1, finish="selected")
    callback = DynamicPruningCallback(
        **POSTERIOR,
        policy="PosteriorCut",
        schedule=schedule,
        reference=make_data(100, seed=2, noise=0.0),
    )
    table = fit(callback, epochs=6).label_issues().table
    cut = table[~table["kept"]]
    assert len(cut) > 0
    assert cut["cut_since"].between(1, 5).all()
    assert table[table["kept"]]["cut_since"].isna().all()
    assert cut["is_issue"].mean() > 0.8


def test_without_pandas_the_table_is_plain_and_the_same(monkeypatch):
    issues = fit().label_issues()
    names, rows = list(issues.table.columns), issues.table["index"].to_list()
    monkeypatch.setitem(sys.modules, "pandas", None)
    assert list(issues.table) == names
    assert issues.table["index"] == rows


def test_files_hold_what_the_table_holds(tmp_path):
    issues = fit().label_issues()
    issues.save(tmp_path / "out.csv")
    with (tmp_path / "out.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == list(issues.columns)
    assert [int(row["index"]) for row in rows] == issues.columns["index"]
    assert rows[0]["cut_since"] == ""
    issues.save(tmp_path / "out.parquet")
    import pandas as pd

    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "out.parquet"), issues.table)
    with pytest.raises(ValueError, match=r"ends in \.csv or \.parquet, got 'out.xlsx'"):
        issues.save("out.xlsx")


def test_plain_arrays_for_other_tools_are_in_the_order_of_the_data():
    issues = fit().label_issues()
    labels, probabilities = issues.labels, issues.pred_probs()
    assert (labels == make_data(300, noise=0.3).tensors[1].numpy()).all()
    assert probabilities.shape == (300, 3)
    assert np.allclose(probabilities.sum(1), 1)
    own = probabilities[np.arange(300), labels]
    assert np.allclose(own, issues.label_quality)
    assert ((own < 0.5) == issues.is_issue).all()
    assert isinstance(labels, np.ndarray)
    assert labels.dtype == np.int64


# ---- which scores ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {"score": "TimeAverage", "signal": "Margin"},
        {"score": "TimeAverage", "signal": "WrongEvents"},
        {"score": "TimeAverage", "signal": "LabelOdds"},
        {"score": "ReferenceRank", "signal": "CalibratedLoss"},
        {"score": "MeanLoss", "signal": "SampleLoss"},
    ],
    ids=lambda settings: "-".join(settings.values()),
)
def test_every_score_with_a_meaning_for_labels_ranks_wrong_ones_first(settings):
    reference = make_data(100, seed=2, noise=0.0)
    callback = DynamicPruningCallback(**settings, **WATCH, reference=reference)
    issues = fit(callback).label_issues()
    data = make_data(300, noise=0.3)
    is_wrong = data.tensors[0][:, :3].argmax(1) != data.tensors[1]
    assert separated(issues, is_wrong) > 0.95
    has_probability = issues.columns["probability_right"][0] is not None
    assert has_probability == (settings["signal"] == "LabelOdds")


@pytest.mark.parametrize(
    ("score", "signal"),
    [("loss", "SampleLoss"), (DynamicAlignment(window=3, min_observations=2), "SampleLoss")],
)
def test_a_score_without_one_is_refused_and_told_which_has(score, signal):
    callback = DynamicPruningCallback(score, **WATCH, signal=signal, reference=make_data(30))
    name = type(callback.score).__name__
    with pytest.raises(ValueError, match=f"got {name} on {signal}.*LabelPosterior.*WrongEvents"):
        fit(callback).label_issues()


def test_where_no_labels_are_seen_none_are_judged():
    callback = DynamicPruningCallback(MeanLoss(), **WATCH, signal=BatchLoss())
    with pytest.raises(ValueError, match="got none that BatchLoss could read"):
        fit(callback).label_issues()


def test_before_a_fit_there_is_nothing():
    with pytest.raises(RuntimeError, match="nothing recorded before a fit"):
        DynamicPruningCallback(**POSTERIOR, **WATCH).label_issues()


# ---- checkpoints and ranks ---------------------------------------------------------------------


def same_issues(one, other):
    assert one.columns == other.columns
    assert torch.equal(one.matrix, other.matrix)
    assert one.noise_share == other.noise_share


def test_a_checkpoint_says_the_same_as_the_run(tmp_path):
    saved = ModelCheckpoint(tmp_path, filename="end", save_on_train_epoch_end=True)
    callback = fit(None, saved)
    same_issues(callback.label_issues(), label_issues(read_checkpoint(tmp_path / "end.ckpt")))


class SaveInMidEpoch(Checkpoint):
    def __init__(self, path):
        self.path = path

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.current_epoch == 2 and batch_idx == 5:
            trainer.save_checkpoint(self.path)


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch")
def test_a_resumed_run_finds_the_same(tmp_path):
    path = tmp_path / "mid.ckpt"
    whole = fit(None, SaveInMidEpoch(path), module=TinyModule()).label_issues()
    same_issues(whole, fit(None, module=TinyModule(), ckpt_path=path).label_issues())


def test_an_old_checkpoint_says_that_it_has_no_notes():
    with pytest.raises(ValueError, match=r"^Findings: expected .* got one of an older version"):
        read_checkpoint(DATA / CHECKPOINT)


def test_a_file_without_our_state_is_refused(tmp_path):
    torch.save({"callbacks": {"EarlyStopping": {"wait": 1}}}, tmp_path / "a.ckpt")
    with pytest.raises(
        ValueError, match=r"^read_checkpoint: expected .* got the callbacks EarlyStopping"
    ):
        read_checkpoint(tmp_path / "a.ckpt")
    torch.save({"callbacks": {}, "own": object}, tmp_path / "b.ckpt")
    with pytest.raises(ValueError, match=r"^read_checkpoint: expected .* weights_only=False"):
        read_checkpoint(tmp_path / "b.ckpt")


class SaveAtEnd(Checkpoint):
    def __init__(self, path):
        self.path = path

    def on_train_end(self, trainer, pl_module):
        trainer.save_checkpoint(self.path)


def watching(partition="replicated"):
    reference = make_data(60, seed=3, noise=0.0)
    return DynamicPruningCallback(**POSTERIOR, **WATCH, reference=reference, partition=partition)


def test_ranks_find_together_what_one_finds_alone(tmp_path):
    found = []
    for name, ranks, partition in (("one", 1, None), ("two", 2, None), ("fixed", 2, "fixed")):
        path = tmp_path / f"{name}.ckpt"
        fit_on_ranks(
            tmp_path / name,
            ranks,
            num_samples=64,
            make_module=partial(Knowing),
            callback=partial(watching, partition or "replicated"),
            extra=(partial(SaveAtEnd, path),),
        )
        found.append(label_issues(read_checkpoint(path)))
    alone, *others = found
    for issues in others:
        assert (issues.labels == alone.labels).all()
        assert (issues.labels >= 0).all()
        assert (issues.is_issue == alone.is_issue).mean() > 0.95
        assert issues.columns["loss_epoch_0"] != [None] * 64


# ---- from the shell ----------------------------------------------------------------------------


def test_the_command_lists_the_issues_and_writes_the_table(tmp_path, capsys):
    saved = ModelCheckpoint(tmp_path, filename="end", save_on_train_epoch_end=True)
    issues = fit(None, saved).label_issues()
    main(["audit", str(tmp_path / "end.ckpt"), "--out", str(tmp_path / "a.csv"), "--show", "3"])
    said = capsys.readouterr().out
    assert said.startswith(str(issues))
    assert str(issues.columns["index"][2]) in said
    with (tmp_path / "a.csv").open() as file:
        assert len(list(csv.reader(file))) == 301


def test_the_command_says_in_a_line_what_is_wrong(tmp_path, capsys):
    saved = ModelCheckpoint(tmp_path, filename="end", save_on_train_epoch_end=True)
    fit(DynamicPruningCallback("loss", **WATCH), saved)
    with pytest.raises(SystemExit):
        main(["audit", str(tmp_path / "end.ckpt")])
    assert "got LastLoss on SampleLoss" in capsys.readouterr().err


def test_own_signals_may_be_audited():
    class Half(WrongEvents):
        """A user's signal, which says only itself what its average means."""

        def label_quality(self, average):
            return 1 - average

    issues = fit(DynamicPruningCallback(TimeAverage(), **WATCH, signal=Half())).label_issues()
    assert isinstance(issues, LabelIssues)
    assert issues.num_issues > 50
