"""A reference found among the training samples themselves: no clean data needed.

`PseudoClean` says which samples are taken; `PseudoReference` is the reference that they make.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from typing_extensions import override

from lightning_alignprune._checks import check_bool, check_float, check_int
from lightning_alignprune.functional.alignment import mean_trajectory
from lightning_alignprune.functional.coreset import moderate_subset, small_loss_subset
from lightning_alignprune.reference.base import Reference
from lightning_alignprune.reference.evaluation import training_logits
from lightning_alignprune.state.trajectories import LossTrajectories
from lightning_alignprune.trainer_access.dataset_labels import read_labels
from lightning_alignprune.trainer_access.loaders import in_index_order
from lightning_alignprune.trainer_access.running_fit import RunningFit

PSEUDO = "pseudo"


class PseudoClean:
    """Take the training samples with the smallest losses as the reference: no clean data needed.

    After each epoch the samples with the smallest mean recorded loss are chosen, most of which
    have right labels, and the reference trajectory is their mean loss in each recorded epoch. It
    is made of losses that were recorded anyway: no forward pass, no second data set. Because these
    samples are trained on, their loss keeps falling while the network memorises, so the
    early-learning gate never closes with such a reference.

    Args:
        size: How many samples, or, as a float in (0, 1), which share of the training set. The
            paper finds little difference down to 0.1 %; ten samples already give a trend.
        balanced: Choose as many of each class where labels can be read from the dataset
            (``targets``, ``labels``, or the second of two tensors of a ``TensorDataset``).

    Raises:
        TypeError: If a value is of the wrong kind.
        ValueError: If ``size`` is out of range.

    Example:
        >>> bank = LossTrajectories(num_samples=4, window=None)
        >>> bank.record(torch.arange(4), torch.tensor([0.1, 0.3, 2.0, 3.0]))
        >>> bank.close_epoch(0)
        >>> float(PseudoClean(size=2).refresh(bank, labels=None))
        0.20000000298023224
    """

    def __init__(self, size: int | float = 0.1, balanced: bool = True) -> None:
        owner = type(self).__name__
        self.size: int | float
        if isinstance(size, (float, np.floating)):
            remedy = "A float is a share of the training set; give an int for a count."
            self.size = check_float(owner, "size", size, above=0, below=1, remedy=remedy)
        else:
            self.size = check_int(owner, "size", size, low=1, remedy="Ten samples will do.")
        self.balanced = check_bool(owner, "balanced", balanced)

    def count(self, num_samples: int) -> int:
        """Return how many of ``num_samples`` samples are chosen, at least one."""
        if isinstance(self.size, float):
            return max(1, round(self.size * num_samples))
        return min(self.size, num_samples)

    def choose(self, trajectories: LossTrajectories, labels: Tensor | None) -> Tensor:
        """Return the indices of the samples with the smallest mean loss, int64, ascending."""
        means = mean_trajectory(trajectories.rows)
        if labels is not None:
            labels = labels.to(means.device) if self.balanced else None
        return small_loss_subset(means, self.count(len(means)), labels)

    def refresh(
        self, trajectories: LossTrajectories, labels: Tensor | None, chosen: Tensor | None = None
    ) -> Tensor:
        """Choose anew and rewrite the reference of all recorded epochs; return the newest value."""
        chosen = self.choose(trajectories, labels) if chosen is None else chosen
        values = [row[chosen].float().nanmean() for row in trajectories.rows]
        trajectories.replace_reference(torch.stack(values))
        return values[-1]


class PseudoModerate(PseudoClean):
    """Take training samples of middling distance to their class as the reference (Moderate).

    Once, after ``after_epochs`` epochs, the samples are ordered by the distance of their logits to
    the median logits of their class, and those in the middle are chosen. That takes one forward
    pass over the training set, the only one; from then on it works as :class:`PseudoClean`.

    Args:
        size: How many samples, or which share of the training set.
        after_epochs: Recorded epochs before the choice; until then there is no reference.

    Raises:
        TypeError: If a value is of the wrong kind.
        ValueError: If a value is out of range.
    """

    def __init__(self, size: int | float = 0.1, after_epochs: int = 4) -> None:
        super().__init__(size, balanced=False)
        remedy = "The logits of an untrained network say nothing."
        self.after_epochs = check_int(
            "PseudoModerate", "after_epochs", after_epochs, low=1, remedy=remedy
        )


def is_pseudo(reference: object) -> bool:
    """Say whether a given reference is made of the training samples' own losses."""
    return reference == PSEUDO if isinstance(reference, str) else isinstance(reference, PseudoClean)


class PseudoReference(Reference):
    """Make the reference of all recorded epochs out of the training samples' own losses.

    Args:
        fit: The fit that it is the reference of.
        samples: Which samples are taken.
    """

    def __init__(self, fit: RunningFit, samples: PseudoClean) -> None:
        super().__init__(fit)
        self._choice = samples
        self._loader: Any = None
        self._labels: Tensor | None = None
        self._chosen: Tensor | None = None

    @property
    @override
    def description(self) -> str:
        return f"training samples chosen by {type(self._choice).__name__}"

    @override
    def prepare(self, train_loader: DataLoader[Any]) -> None:
        self._labels = read_labels(train_loader.dataset)
        self._loader = in_index_order(train_loader)

    @override
    def measure(self) -> Tensor | None:
        return None  # the epoch's own losses are not all known before it is closed

    @override
    def follow(self, trajectories: LossTrajectories) -> Tensor | None:
        choice = self._choice
        if isinstance(choice, PseudoModerate) and self._chosen is None:
            if len(trajectories.epochs) < choice.after_epochs:
                return None
            logits, labels = training_logits(self.fit, self._loader)
            self._chosen = moderate_subset(logits, labels, choice.count(len(labels)))
        chosen = None if self._chosen is None else self._chosen.to(trajectories.device)
        return choice.refresh(trajectories, self._labels, chosen)

    @override
    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "chosen": self._chosen}

    @override
    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self._chosen = state.get("chosen")
