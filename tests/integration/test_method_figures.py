"""The figures of the method cards can be drawn, one for each card that shows one."""

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def figures(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "examples" / "benchmarks"))
    return importlib.import_module("method_figures")


@pytest.mark.filterwarnings("ignore")  # the script silences Lightning's for good
@pytest.mark.parametrize("name", ["label_posterior", "mixture_cut"])
def test_the_figure_of_a_card_is_drawn(figures, tmp_path, name):
    figures.main(["--out", str(tmp_path), "--epochs", "4", "--only", name])
    assert (tmp_path / f"{name}.png").stat().st_size > 1000


def test_the_cards_show_the_figures_that_are_drawn(figures):
    page = (ROOT / "docs" / "methods.md").read_text()
    shown = re.findall(r"\(figures/methods/(\w+)\.png\)", page)
    assert sorted(shown) == sorted([*figures.SCORES, *figures.POLICIES])
