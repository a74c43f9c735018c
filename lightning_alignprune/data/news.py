"""20 Newsgroups as text features: TF-IDF, reduced by a truncated SVD."""

from typing import Any, Literal, get_args

import torch
from torch import Tensor
from typing_extensions import override

from lightning_alignprune._checks import (
    check_bool,
    check_choice,
    check_instance,
    check_int,
    check_path,
)
from lightning_alignprune._extras import require
from lightning_alignprune.data.base import NoisyLabelDataModule, Sets
from lightning_alignprune.data.datasets import InMemoryDataset
from lightning_alignprune.data.noise import LabelNoise
from lightning_alignprune.data.readers._progress import progress
from lightning_alignprune.data.settings import Loading, Split

_OWNER = "NewsDataModule"
_OFFICIAL = "https://scikit-learn.org/stable/datasets/real_world.html"

GROUP_NAMES = ("alt", "comp", "misc", "rec", "sci", "soc", "talk")
NewsClasses = Literal["topics", "groups"]
NEWS_CLASSES: tuple[NewsClasses, ...] = get_args(NewsClasses)


class NewsDataModule(NoisyLabelDataModule):
    """20 Newsgroups ("bydate"): 11,314 training and 7,532 test texts as vectors of 300 numbers.

    Texts are read without headers, footers and quotes, in the order of scikit-learn's cache file.
    TF-IDF and SVD are fitted on the official training texts, without labels; they are the same
    for every split and every noise. Features have mean 0 and variance 1 over those texts.

    Args:
        data_dir: Folder with ``20news-bydate_py3.pkz``, the cache of scikit-learn.
        noise: Wrong labels of the training part.
        classes: ``"topics"`` are the 20 newsgroups; ``"groups"`` joins them to the seven of the
            noisy-label literature by the first part of their name: alt, comp, misc, rec, sci,
            soc, talk. Both in alphabetical order.
        num_terms: Terms of the vocabulary, the most frequent ones.
        num_features: Dimensions after the SVD; None keeps the ``num_terms`` TF-IDF values, as a
            dense tensor: about 0.9 GB for training with 20,000 terms.
        download: Let scikit-learn fetch the texts, checksum included, if they are missing.
        split: Which samples are held out of training: 1,000 as reference and 1,000 for
            validation, unless it says otherwise.
        loading: How samples become batches.

    Raises:
        ModuleNotFoundError: If scikit-learn is not installed.
        FileNotFoundError: In ``setup``, if the texts are missing.
        TypeError: If a value is of the wrong kind.
        ValueError: If a value is out of range.

    Note:
        ``setup`` takes about ten seconds on one core. The cache file is a pickle and is read by
        scikit-learn: use the one that scikit-learn made.

    Example:
        >>> NewsDataModule(classes="groups").num_classes
        7
    """

    def __init__(
        self,
        data_dir: str = "data",
        noise: LabelNoise = LabelNoise(),  # noqa: B008 - frozen
        classes: NewsClasses = "topics",
        num_terms: int = 20_000,
        num_features: int | None = 300,
        download: bool = False,
        split: Split = Split(),  # noqa: B008 - frozen
        loading: Loading = Loading(),  # noqa: B008 - frozen
    ) -> None:
        super().__init__(split=split, loading=loading)
        require("sklearn", "examples", _OWNER)
        self.data_dir = check_path(_OWNER, "data_dir", data_dir, remedy="Name a folder.")
        remedy = "Pass noise=LabelNoise(...)."
        self.noise = check_instance(_OWNER, "noise", noise, LabelNoise, remedy=remedy)
        self.classes = check_choice(_OWNER, "classes", classes, NEWS_CLASSES)
        self.num_classes = 20 if classes == "topics" else len(GROUP_NAMES)
        self.class_names: tuple[str, ...] = () if classes == "topics" else GROUP_NAMES
        remedy = "20000 is usual."
        self.num_terms = check_int(_OWNER, "num_terms", num_terms, low=2, remedy=remedy)
        remedy, most = "It reduces num_terms; None turns the SVD off.", self.num_terms
        self.num_features = check_int(
            _OWNER, "num_features", num_features, low=1, high=most, optional=True, remedy=remedy
        )
        self.download = check_bool(_OWNER, "download", download)

    @override
    def prepare_data(self) -> None:
        """Download the texts if asked to; runs in one process only."""
        if self.download:
            self._texts("all", download=True)

    @override
    def clean_labels(self) -> Tensor:
        return self._texts("train")[1]

    @override
    def make_sets(self) -> Sets:
        train_texts, clean = self._texts("train")
        test_texts, test_labels = self._texts("test")
        inputs, test_inputs = text_features(
            train_texts, test_texts, self.num_terms, self.num_features
        )
        labels, _ = self.noise.apply(clean, self.num_classes)
        reference, val, rest = self.split.hold_out(_OWNER, len(clean))
        train = self.split.subset(_OWNER, rest)
        return Sets(
            InMemoryDataset(inputs, labels, train, clean),
            InMemoryDataset(inputs, clean, reference, clean),
            InMemoryDataset(inputs, clean, val, clean),
            InMemoryDataset(test_inputs, test_labels, None, test_labels),
        )

    def _texts(self, part: str, download: bool = False) -> tuple[list[str], Tensor]:
        fetch = require("sklearn.datasets", "examples", _OWNER).fetch_20newsgroups
        try:
            found = fetch(
                data_home=self.data_dir,
                subset=part,
                remove=("headers", "footers", "quotes"),
                shuffle=False,
                download_if_missing=download,
            )
        except OSError as error:
            if download:
                raise
            raise FileNotFoundError(
                f"{_OWNER}: expected 20news-bydate_py3.pkz in {self.data_dir!r}, got none. Pass "
                "download=True, or run sklearn.datasets.fetch_20newsgroups(data_home="
                f"{self.data_dir!r}) where there is a network ({_OFFICIAL})."
            ) from error
        labels = torch.from_numpy(found.target).to(torch.int64)
        if self.classes == "topics":
            self.class_names = tuple(found.target_names)
            return found.data, labels
        groups = [GROUP_NAMES.index(name.partition(".")[0]) for name in found.target_names]
        return found.data, torch.tensor(groups)[labels]


def text_features(
    train_texts: list[str], test_texts: list[str], num_terms: int, num_features: int | None
) -> tuple[Tensor, Tensor]:
    """Turn texts into vectors, fitted on the training texts.

    Args:
        train_texts: M texts.
        test_texts: Further texts.
        num_terms: Size of the vocabulary; English stop words are left out.
        num_features: D, dimensions of the SVD, whose output is standardised; None leaves the
            TF-IDF values as they are.

    Returns:
        Shape (M, D) and (len(test_texts), D), float32.
    """
    text = require("sklearn.feature_extraction.text", "examples", _OWNER)
    decomposition = require("sklearn.decomposition", "examples", _OWNER)
    vectorizer = text.TfidfVectorizer(
        max_features=num_terms, sublinear_tf=True, stop_words="english"
    )

    def terms(texts: Any) -> Any:
        return vectorizer.fit_transform(texts[0]), vectorizer.transform(texts[1])

    def dense(both: Any) -> Any:
        return tuple(part.toarray() for part in both)

    def reduced(both: Any) -> Any:
        svd = decomposition.TruncatedSVD(num_features, random_state=0)
        return svd.fit_transform(both[0]), svd.transform(both[1])

    both: Any = (train_texts, test_texts)
    steps = [terms, dense if num_features is None else reduced]
    for step in progress(steps, "Turning texts into features"):
        both = step(both)
    train, test = (torch.from_numpy(part).to(torch.float32) for part in both)
    if num_features is None:
        return train, test
    mean, std = train.mean(0), train.std(0).clamp_min(1e-12)
    return (train - mean) / std, (test - mean) / std
