"""The Python of README and docs runs: each page's blocks, in order, in one namespace.

What a reader has already (``module``, ``datamodule``, ``clean_loader``, ...) is there before, small
and real. Only sizes change: a Trainer of a page runs a few epochs, quietly, on the CPU.
"""

import importlib
import re
import sys
from pathlib import Path
from typing import Any, ClassVar

import lightning.pytorch as pl
import pytest
import yaml
from torch.utils.data import DataLoader

import lightning_alignprune
import lightning_alignprune.cli  # before a small Trainer is what it imports
from tests.conftest import TinyModule, make_data
from tests.integration import own_parts
from tests.unit.data.made import make_cifar10

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PAGES = {
    str(path.relative_to(ROOT)): path
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
    if BLOCK.search(path.read_text())
}
MOST_EPOCHS = 7
QUIET: dict[str, Any] = {
    "accelerator": "cpu",
    "devices": 1,
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}

pytestmark = [
    # LightningCLI calls names that jsonargparse has renamed; not ours to change.
    pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*args parameter is intended to run from within Python"),
]


class MyDataModule(pl.LightningDataModule):
    """Training data with wrong labels, and clean samples held out of it."""

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(make_data(64), batch_size=8, shuffle=True)

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(make_data(16, 2, 0.0), batch_size=8)

    def reference_dataloader(self) -> DataLoader[Any]:
        return DataLoader(make_data(30, 1, 0.0), batch_size=8)


def readers_names() -> dict[str, Any]:
    """What the pages take for granted: the reader's own module and data, and the shown parts."""
    return {
        "__name__": "page",
        "MyModule": TinyModule,
        "MyDataModule": MyDataModule,
        "module": TinyModule(),
        "datamodule": MyDataModule(),
        "clean_loader": MyDataModule().reference_dataloader(),
        "train_loader": MyDataModule().train_dataloader(),
        # docs/extending.md includes this file above its first block
        "LossDrop": own_parts.LossDrop,
        "KeepTop": own_parts.KeepTop,
    }


class SmallTrainer(pl.Trainer):
    """A page's Trainer, quiet and soon done."""

    made: ClassVar[list[pl.Trainer]] = []

    def __init__(self, **kwargs: Any) -> None:
        epochs = min(kwargs.pop("max_epochs", MOST_EPOCHS), MOST_EPOCHS)
        super().__init__(max_epochs=epochs, **(kwargs | QUIET))
        self.made.append(self)


@pytest.fixture
def trainers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[pl.Trainer]:
    """Run in an empty folder with a small CIFAR-10 in it; return the Trainers that a page makes."""
    make_cifar10(tmp_path / "data", monkeypatch, num_train=3000)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train.py", "fit", "--config=quiet.yaml"])
    Path("quiet.yaml").write_text(
        yaml.safe_dump({"seed_everything": 1, "trainer": {**QUIET, "max_epochs": 2}})
    )
    monkeypatch.setattr(pl, "Trainer", SmallTrainer)
    SmallTrainer.made.clear()
    return SmallTrainer.made


@pytest.mark.parametrize("page", PAGES)
def test_the_python_of_a_page_runs(page: str, trainers: list[pl.Trainer]) -> None:
    text = PAGES[page].read_text()
    names = readers_names()
    for block in BLOCK.finditer(text):
        # A traceback shows the line of the page.
        lines = "\n" * (text[: block.start()].count("\n") + 1)
        exec(compile(lines + block[1], PAGES[page], "exec"), names)
        Path("config.yaml").unlink(missing_ok=True)  # a LightningCLI replaces none
    for trainer in trainers:
        if not trainer.global_step:  # the page only makes it
            trainer.fit(TinyModule(), MyDataModule())
        assert trainer.current_epoch == trainer.max_epochs


def test_every_page_with_python_is_among_them() -> None:
    assert {"README.md", "docs/quickstart.md", "docs/robust.md", "docs/extending.md"} <= set(PAGES)


@pytest.mark.parametrize(
    "path", sorted([*ROOT.glob(".github/**/*.yml"), *ROOT.glob("*.yaml"), *ROOT.glob(".*.yaml")])
)
def test_the_settings_of_the_repository_can_be_read(path: Path) -> None:
    assert isinstance(yaml.safe_load(path.read_text()), dict)


@pytest.mark.parametrize("page", ["README.md", "examples/README.md"])
def test_the_links_of_a_page_lead_to_files(page: str) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)", (ROOT / page).read_text())
    assert links
    assert [link for link in links if not ((ROOT / page).parent / link).exists()] == []


def test_everything_that_can_be_imported_is_on_an_api_page() -> None:
    text = "\n".join(path.read_text() for path in (ROOT / "docs/api").glob("*.md"))
    shown = set(re.findall(r"^\.\. auto(?:class|function):: \S*\.(\w+)$", text, re.MULTILINE))
    for module in re.findall(r"^\.\. automodule:: (\S+)$", text, re.MULTILINE):
        shown |= set(importlib.import_module(module).__all__)
    assert set(lightning_alignprune.__all__) - shown == {"__version__"}
