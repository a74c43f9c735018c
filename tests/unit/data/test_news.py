"""20 Newsgroups from a cache file in scikit-learn's own format."""

from pathlib import Path

import pytest
import torch

from lightning_alignprune.data import LabelNoise, NewsDataModule, Split

from .made import NEWS_NAMES, make_news

SMALL = {"num_terms": 30, "num_features": 4, "split": Split(5, 5)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_news(tmp_path)


def test_texts_become_standardised_features_in_file_order(folder: Path) -> None:
    data = NewsDataModule(str(folder), **SMALL)
    data.setup()
    train, reference, val, test = data.sets
    assert [len(part) for part in data.sets] == [40, 5, 5, 20]
    assert torch.equal(train.clean_labels, train.indices % 5)
    assert test.labels.tolist() == [i % 5 for i in range(20)]
    assert data.class_names == tuple(NEWS_NAMES)
    assert train.inputs.shape == (50, 4)
    torch.testing.assert_close(train.inputs.mean(0), torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(train.inputs.std(0), torch.ones(4))
    assert reference.inputs is val.inputs is train.inputs
    x, y = next(iter(data.train_dataloader()))
    assert (x.dtype, y.dtype) == (torch.float32, torch.int64)


def test_features_are_the_same_for_every_split_and_noise(folder: Path) -> None:
    one = NewsDataModule(str(folder), **SMALL)
    two = NewsDataModule(
        str(folder), LabelNoise("pairflip", 0.5), **{**SMALL, "split": Split(5, 5, seed=3)}
    )
    one.setup()
    two.setup()
    assert torch.equal(one.sets.train.inputs, two.sets.train.inputs)
    assert torch.equal(one.sets.test.inputs, two.sets.test.inputs)


def test_groups_join_topics_by_the_first_part_of_their_names(folder: Path) -> None:
    data = NewsDataModule(str(folder), classes="groups", **SMALL)
    data.setup()
    assert data.num_classes == 7
    assert data.sets.test.labels[:5].tolist() == [0, 1, 1, 3, 6]


def test_without_svd_the_tfidf_values_stay(folder: Path) -> None:
    data = NewsDataModule(str(folder), num_terms=30, num_features=None, split=Split(5, 5))
    data.setup()
    inputs = data.sets.train.inputs
    assert inputs.shape == (50, 30)
    torch.testing.assert_close(inputs.norm(dim=1), torch.ones(50))


def test_headers_are_not_read(folder: Path) -> None:
    texts, _ = NewsDataModule(str(folder), **SMALL)._texts("train")
    assert all("someone" not in text for text in texts)


def test_missing_texts_say_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"20news-bydate_py3.pkz .*download=True"):
        NewsDataModule(str(tmp_path)).setup()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"classes": "seven"}, "expected classes to be one of 'topics'"),
        ({"num_terms": 1}, "expected num_terms"),
        ({"num_features": 50, "num_terms": 40}, r"expected num_features in \[1, 40\]"),
    ],
)
def test_bad_values_fail_in_the_constructor(arguments, text) -> None:
    with pytest.raises(ValueError, match=text):
        NewsDataModule(**arguments)
