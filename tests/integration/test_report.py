"""The page about a run: what is on it, and how it looks in a browser."""

import re
import sys
from itertools import product

import matplotlib.pyplot as plt
import pytest
import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.callbacks import ModelCheckpoint
from matplotlib.figure import Figure
from torch.utils.data import DataLoader, Dataset

from lightning_alignprune import DynamicPruningCallback, InfoBatch, PruningSchedule
from lightning_alignprune.audit import read_checkpoint, write_report
from lightning_alignprune.cli import main
from tests.browser import WIDTHS, measured
from tests.conftest import make_data, make_trainer
from tests.integration.test_audit import POSTERIOR, Knowing, fit

NAMES = ["aeroplane with two wings", "<b>bird</b>", "cat"]


class Shown(Dataset):
    """The same samples with something to look at in front."""

    def __init__(self, make, num_samples=300):
        self.data, self.make = make_data(num_samples, noise=0.3), make

    def __len__(self):
        return len(self.data)

    def __getitem__(self, index):
        return (self.make(index), *self.data[index])


def picture(index):
    return torch.rand(3, 20, 20, generator=torch.Generator().manual_seed(index))


def text(index):
    return f"Sample {index} " + "averyverylongwordthatnobodywouldbreak" * 3


def pruned(*extra, epochs=8):
    callback = DynamicPruningCallback(
        **POSTERIOR,
        policy="PosteriorCut",
        schedule=PruningSchedule(2, finish="selected"),
        reference=make_data(100, seed=2, noise=0.0),
    )
    return fit(callback, *extra, epochs=epochs)


@pytest.fixture(scope="module")
def run():
    return pruned()


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_the_page_fits_every_screen(run, tmp_path, dark):
    makes = (picture, text)
    pages = [run.report(tmp_path / f"{m.__name__}.html", Shown(m), NAMES) for m in makes]
    seen = measured(pages, tmp_path, dark=dark)
    for found, (make, width) in zip(seen, product(makes, WIDTHS), strict=True):
        assert found["width"] == width
        assert found["scroll"] <= width
        assert found["right"] <= width
        brightness = [int(part) for part in re.findall(r"\d+", found["ground"])[:3]]
        assert (max(brightness) < 60) == dark
        assert (min(brightness) > 200) != dark
        assert found["figures"] == [found["ink"]] * 3
        assert found["pictures"] == ([120] * 24 if make is picture else [])
        assert "labels look wrong" in found["text"]
        assert "aeroplane with two wings" in found["text"]
        assert "<b>bird</b>" in found["text"], "names are no markup"


def test_a_number_stays_in_its_card(run, tmp_path):
    page = run.report(tmp_path / "page.html")
    for found in measured([page], tmp_path, (390, 700, 800, 1024)):
        assert found["spilled"] == []


def test_the_page_asks_for_nothing_from_anywhere(run, tmp_path):
    text = run.report(tmp_path / "page.html", Shown(picture)).read_text()
    without_pictures = re.sub(r"base64,[\w+/=]+", "", text)
    addresses = set(re.findall(r"//([\w.]+)", without_pictures))
    assert addresses == {"www.w3.org"}, "the names of formats, which nobody fetches"
    assert "<script" not in text
    assert "<link" not in text
    assert "default-src 'none'" in text


def test_two_figures_share_no_name(run, tmp_path):
    text = run.report(tmp_path / "page.html").read_text()
    names = re.findall(r'\bid="([^"]+)"', text)
    assert len(names) == len(set(names)) > 100
    asked = set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', text))
    assert {one or other for one, other in asked} <= set(names)


def test_the_page_says_what_the_run_saved(run, tmp_path):
    text = run.report(tmp_path / "page.html").read_text()
    record = run._pruner.record
    assert record.passes_saved > 0
    assert f"({record.passes_saved:,})" in text
    for epoch in record.epochs:
        assert f"<td>{epoch.epoch}</td><td>{100 * epoch.kept_fraction:.0f} %</td>" in text


def test_a_run_that_only_watched_says_what_that_took(tmp_path):
    callback = fit()
    record = callback._pruner.record
    assert record.passes_saved == 0
    assert record.seconds_saved < 0
    text = callback.report(tmp_path / "page.html").read_text()
    assert "for scores and reference" in text
    assert "more than it saved" not in text


def test_the_samples_shown_are_those_that_the_trainer_still_holds(tmp_path):
    class Pictures(Dataset):
        def __init__(self):
            self.data = make_data(300, noise=0.3)

        def __len__(self):
            return 300

        def __getitem__(self, index):
            return picture(index), self.data[index]

    class OnPictures(Knowing):
        def training_step(self, batch, batch_idx):
            return super().training_step(batch[-1], batch_idx)

    class References(Pictures):
        def __init__(self):
            self.data = make_data(300, seed=2, noise=0.0)

    callback = DynamicPruningCallback(**POSTERIOR, policy=InfoBatch(0.0), reference=References())
    trainer = make_trainer(callback, max_epochs=4)
    trainer.fit(OnPictures(), DataLoader(Pictures(), 16))
    page = callback.report(tmp_path / "page.html").read_text()
    assert page.count("data:image/png") == 24


def test_a_dataset_of_another_length_is_refused(run, tmp_path):
    with pytest.raises(ValueError, match="expected the 300 training samples, got a dataset of 40"):
        run.report(tmp_path / "page.html", make_data(40))


def test_a_run_that_judges_no_labels_has_a_page_that_says_so(tmp_path):
    callback = fit(DynamicPruningCallback("loss", InfoBatch(0.5)), epochs=4)
    page = callback.report(tmp_path / "page.html")
    assert "got LastLoss on SampleLoss" in page.read_text()
    for found, width in zip(measured([page], tmp_path), WIDTHS, strict=True):
        assert found["scroll"] <= width
        assert "This run says nothing about labels" in found["text"]


def test_of_many_classes_the_most_frequent_pairs_are_listed(tmp_path):
    class Many(Dataset):
        def __init__(self, seed, noise):
            self.y = torch.arange(600) % 30
            generator = torch.Generator().manual_seed(seed)
            is_wrong = torch.rand(600, generator=generator) < noise
            self.labels = torch.where(is_wrong, (self.y + 1) % 30, self.y)

        def __len__(self):
            return 600

        def __getitem__(self, index):
            return torch.nn.functional.one_hot(self.y[index], 30).float(), self.labels[index]

    class OfThirty(Knowing):
        def forward(self, x):
            return 8 * x + 0 * self.net(x[:, :6]).sum()

    callback = DynamicPruningCallback(**POSTERIOR, policy=InfoBatch(0.0), reference=Many(1, 0.0))
    make_trainer(callback, max_epochs=3).fit(OfThirty(), DataLoader(Many(2, 0.3), 32))
    page = callback.report(tmp_path / "page.html")
    for found, width in zip(measured([page], tmp_path), WIDTHS, strict=True):
        assert found["scroll"] <= width
        assert found["right"] <= width
        assert re.search(r"\d+ → \d+ \(\d+\)", found["text"])


def test_figures_are_matplotlibs_and_leave_pyplot_alone(run):
    before = plt.get_fignums()
    for make in (run.plot_schedule, run.plot_trajectories, run.plot_scores):
        assert isinstance(make(), Figure)
    assert plt.get_fignums() == before
    kept = [bar.get_height() for bar in run.plot_schedule().axes[0].containers[0]]
    assert kept == pytest.approx([e.kept_fraction for e in run._pruner.record.epochs])
    lines = {line.get_label(): line for line in run.plot_trajectories().axes[0].get_lines()}
    labels = sorted(label.split()[0] for label in lines if not label.startswith("_"))
    assert labels == ["cut", "kept", "reference"]


def test_figures_of_a_history_show_every_epoch():
    callback = DynamicPruningCallback("loss", InfoBatch(0.0), keep_history=True)
    (line, *_) = fit(callback, epochs=12).plot_trajectories().axes[0].get_lines()
    assert line.get_xdata().tolist() == list(range(12))


def test_what_is_missing_is_said_with_the_command(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "lightning-alignprune\[report\]"'):
        run.report(tmp_path / "page.html")


class Module(LightningDataModule):
    def train_dataloader(self):
        return DataLoader(Shown(text), 8)


def test_the_command_writes_the_page_of_a_checkpoint(tmp_path, capsys):
    saved = ModelCheckpoint(tmp_path, filename="end", save_on_train_epoch_end=True)
    callback = pruned(saved)
    path, out = str(tmp_path / "end.ckpt"), tmp_path / "out.html"
    data = f"{Module.__module__}.{Module.__name__}"
    main(["report", path, "--out", str(out), "--data", data])
    assert str(out) in capsys.readouterr().out
    assert out.read_text().count("<blockquote>") == 24
    main(["report", path, "--out", str(out)])
    same = write_report(read_checkpoint(path), tmp_path / "same.html")
    assert out.read_text() == same.read_text()
    own = callback.report(tmp_path / "own.html", make_data(300)).read_text()
    assert own == same.read_text(), "of the run and of its checkpoint"
