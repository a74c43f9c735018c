"""`Split` and `Loading`: what all data modules of this package can be told, each as one object."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Literal, TypeVar, get_args

from torch import Tensor

from lightning_alignprune._checks import check_bool, check_choice, check_int, put
from lightning_alignprune.data.splits import Size, check_size, hold_out, subset

ReferenceSource = Literal["held_out", "val", "test"]
REFERENCE_SOURCES: tuple[ReferenceSource, ...] = get_args(ReferenceSource)
ReferenceTransform = Literal["eval", "train"]
REFERENCE_TRANSFORMS: tuple[ReferenceTransform, ...] = get_args(ReferenceTransform)

Settings = TypeVar("Settings", "Split", "Loading")


@dataclass(frozen=True)
class Split:
    """Say which samples are held out of training, and where the reference comes from.

    A size is a number of samples (int) or a share (float).

    Args:
        reference_size: Clean samples held out as reference; None takes the data module's own.
        val_size: Clean samples held out for validation, 0 for no validation; None takes the data
            module's own.
        train_size: How many of the training samples that remain are used; None for all.
        seed: Seed of the draw that holds samples out, at least 0.
        reference_source: ``"held_out"`` takes the held-out part; ``"val"`` takes the validation
            set; ``"test"`` takes the *test* set, as runs in the literature do that train on all
            samples: its accuracy is then no longer that of unseen data.
        reference_transform: ``"eval"`` shows the reference as in evaluation; ``"train"`` as in
            training, augmented. The robust preset compares predictions of the two, so it wants
            ``"train"`` where training augments: blurred predictions look like wrong labels.

    Raises:
        TypeError: If a value is of the wrong kind.
        ValueError: If a value is out of range.

    Example:
        >>> reference, val, rest = Split(reference_size=2, val_size=0.1).hold_out("MyData", 10)
        >>> len(reference), len(val), len(rest)
        (2, 1, 7)
    """

    reference_size: Size | None = None
    val_size: Size | None = None
    train_size: Size | None = None
    seed: int = 0
    reference_source: ReferenceSource = "held_out"
    reference_transform: ReferenceTransform = "eval"

    def __post_init__(self) -> None:
        owner = "Split"
        for name in ("reference_size", "val_size", "train_size"):
            size = getattr(self, name)
            put(self, **{name: None if size is None else check_size(owner, name, size)})
        put(
            self,
            seed=check_int(owner, "seed", self.seed, low=0, remedy="Any int from 0 on will do."),
            reference_source=check_choice(
                owner, "reference_source", self.reference_source, REFERENCE_SOURCES
            ),
            reference_transform=check_choice(
                owner, "reference_transform", self.reference_transform, REFERENCE_TRANSFORMS
            ),
        )

    def hold_out(self, owner: str, total: int) -> tuple[Tensor, Tensor, Tensor]:
        """Divide ``total`` samples into a reference, a validation and a remaining part.

        A size that is still None holds nothing out.

        Args:
            owner: Opens the message of an error.
            total: Samples in the pool.

        Returns:
            Three disjoint int64 tensors, ascending, that together hold 0 to ``total - 1``.

        Raises:
            ValueError: If a size does not fit the pool or nothing would remain.
        """
        sizes = {"reference_size": self.reference_size or 0, "val_size": self.val_size or 0}
        return hold_out(owner, total, self.seed, **sizes)

    def subset(self, owner: str, part: Tensor) -> Tensor:
        """Draw ``train_size`` of the samples of ``part``, ascending.

        Raises:
            ValueError: If ``train_size`` does not fit the part or nothing would remain.
        """
        return subset(owner, part, self.train_size, self.seed)


@dataclass(frozen=True)
class Loading:
    """Say how samples become batches.

    Args:
        batch_size: Samples per training batch, at least 1; None takes the data module's own.
        eval_batch_size: Samples per batch elsewhere; None for ``batch_size``.
        num_workers: Processes that load, 0 for the main process; None takes the data module's own.
        pin_memory: Whether batches are put into pinned memory, for faster copies to a GPU.

    Raises:
        TypeError: If a value is of the wrong kind.
        ValueError: If a value is out of range.

    Example:
        >>> Loading(batch_size=64).num_workers is None
        True
    """

    batch_size: int | None = None
    eval_batch_size: int | None = None
    num_workers: int | None = None
    pin_memory: bool = False

    def __post_init__(self) -> None:
        owner, remedy = "Loading", "Give a number of samples."
        for name in ("batch_size", "eval_batch_size"):
            size = getattr(self, name)
            put(self, **{name: check_int(owner, name, size, low=1, optional=True, remedy=remedy)})
        remedy = "0 loads in the main process."
        num = check_int(owner, "num_workers", self.num_workers, low=0, optional=True, remedy=remedy)
        put(self, num_workers=num, pin_memory=check_bool(owner, "pin_memory", self.pin_memory))


def completed(settings: Settings, own: Settings) -> Settings:
    """Fill what ``settings`` leaves open (None) with the data module's ``own``.

    Example:
        >>> completed(Loading(batch_size=64), own=Loading(32, num_workers=4))
        Loading(batch_size=64, eval_batch_size=None, num_workers=4, pin_memory=False)
    """
    names = [field.name for field in fields(settings)]
    is_open = [name for name in names if getattr(settings, name) is None]
    return replace(settings, **{name: getattr(own, name) for name in is_open})


MOVED: dict[str, tuple[str, str]] = {
    "reference_size": ("split", "reference_size"),
    "val_size": ("split", "val_size"),
    "train_size": ("split", "train_size"),
    "split_seed": ("split", "seed"),
    "reference_source": ("split", "reference_source"),
    "batch_size": ("loading", "batch_size"),
    "eval_batch_size": ("loading", "eval_batch_size"),
    "num_workers": ("loading", "num_workers"),
    "pin_memory": ("loading", "pin_memory"),
}
"""In which object, and under which name, an argument stands that data modules took before."""


def check_not_moved(owner: str, arguments: Mapping[str, object]) -> None:
    """Raise a ``TypeError`` that says where a moved name of ``arguments`` stands now."""
    for name, value in arguments.items():
        if name in MOVED:
            part, field = MOVED[name]
            now = f"Pass {part}={part.title()}({field}={value!r})."
            raise TypeError(f"{owner}: expected no argument {name}, got {value!r}. {now}")
