"""20 Newsgroups as text features: TF-IDF, reduced by a truncated SVD."""

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor
from typing_extensions import override

from lightning_alignprune._checks import check_choice, check_number
from lightning_alignprune._extras import require
from lightning_alignprune.data.base import NoisyLabelDataModule, ReferenceSource, Sets
from lightning_alignprune.data.datasets import InMemoryDataset
from lightning_alignprune.data.noise import LabelNoise
from lightning_alignprune.data.readers._progress import progress
from lightning_alignprune.data.splits import Size, hold_out, subset

_OWNER = "NewsDataModule"
_OFFICIAL = "https://scikit-learn.org/stable/datasets/real_world.html"

GROUP_NAMES = ("alt", "comp", "misc", "rec", "sci", "soc", "talk")
NewsClasses = Literal["topics", "groups"]


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
        reference_size: Clean samples held out as reference: a count or a share.
        val_size: Clean samples held out for validation: a count or a share.
        train_size: How many of the remaining samples are used; None for all.
        split_seed: Seed of the draw that holds samples out.
        reference_source: ``"held_out"``, ``"val"`` or, if you say so, ``"test"``.
        batch_size: Samples per training batch.
        eval_batch_size: Samples per batch elsewhere; None for ``batch_size``.
        num_workers: Processes that load.
        pin_memory: Whether batches are put into pinned memory.

    Raises:
        ModuleNotFoundError: If scikit-learn is not installed.
        FileNotFoundError: In ``setup``, if the texts are missing.
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
        reference_size: Size = 1000,
        val_size: Size = 1000,
        train_size: Size | None = None,
        split_seed: int = 0,
        reference_source: ReferenceSource = "held_out",
        batch_size: int = 128,
        eval_batch_size: int | None = None,
        num_workers: int = 0,
        pin_memory: bool = False,
    ) -> None:
        super().__init__(
            reference_size=reference_size,
            val_size=val_size,
            train_size=train_size,
            split_seed=split_seed,
            reference_source=reference_source,
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            num_workers=num_workers,
            pin_memory=pin_memory,
        )
        require("sklearn", "examples", _OWNER)
        check_choice(_OWNER, "classes", classes, ("topics", "groups"))
        check_number(_OWNER, "num_terms", num_terms, low=2, integer=True, remedy="20000 is usual.")
        if num_features is not None:
            check_number(
                _OWNER,
                "num_features",
                num_features,
                low=1,
                high=num_terms,
                integer=True,
                remedy="It reduces num_terms; None turns the SVD off.",
            )
        self.data_dir = data_dir
        self.noise = noise
        self.classes = classes
        self.num_classes = 20 if classes == "topics" else len(GROUP_NAMES)
        self.class_names: tuple[str, ...] = () if classes == "topics" else GROUP_NAMES
        self.num_terms = num_terms
        self.num_features = num_features
        self.download = download

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
        reference, val, rest = hold_out(
            _OWNER,
            len(clean),
            self.split_seed,
            reference_size=self.reference_size,
            val_size=self.val_size,
        )
        train = subset(_OWNER, rest, self.train_size, self.split_seed)
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
    steps: list[Callable[[Any], Any]] = [
        lambda _: (vectorizer.fit_transform(train_texts), vectorizer.transform(test_texts))
    ]
    if num_features is None:
        steps.append(lambda both: tuple(part.toarray() for part in both))
    else:
        svd = decomposition.TruncatedSVD(num_features, random_state=0)
        steps.append(lambda both: (svd.fit_transform(both[0]), svd.transform(both[1])))
    both: Any = None
    for step in progress(steps, "Turning texts into features"):
        both = step(both)
    train, test = (torch.from_numpy(part).to(torch.float32) for part in both)
    if num_features is None:
        return train, test
    mean, std = train.mean(0), train.std(0).clamp_min(1e-12)
    return (train - mean) / std, (test - mean) / std
