"""`make_noise_file`: draw label noise once and keep it, for runs that must share it."""

from pathlib import Path

import torch
from torch import Tensor

from lightning_alignprune._checks import check_bool, check_int, check_path, message
from lightning_alignprune.data.base import NoisyLabelDataModule
from lightning_alignprune.data.noise import LabelNoise
from lightning_alignprune.data.readers.label_files import read_label_file, write_label_file
from lightning_alignprune.functional.label_noise.by_name import NoiseModel

_OWNER = "alignprune noise"


def make_noise_file(
    out: str,
    rate: float,
    kind: NoiseModel = "symmetric_uniform",
    seed: int = 0,
    labels: str | None = None,
    entry: str = "clean_label",
    data: NoisyLabelDataModule | None = None,
    num_classes: int | None = None,
    overwrite: bool = False,
) -> str:
    """Draw label noise once and keep it in a file.

    The file has the entries ``clean_label`` and ``noisy_label``, in the official order; a data
    module reads it with ``LabelNoise("noisy", file=...)``.

    Args:
        out: The file to write, ``.npz`` or ``.pt``.
        rate: The noise model's rate, in [0, 1].
        kind: The noise model.
        seed: Seed of its draw.
        labels: A label file with the true labels; give this or ``data``.
        entry: The entry of that file that holds them.
        data: A data module that knows them; give this or ``labels``.
        num_classes: Number of classes; None takes the data module's, or the largest label plus 1.
        overwrite: Whether an existing file may be replaced.

    Returns:
        What was done, for the user to read.

    Raises:
        TypeError: If a value is of the wrong kind.
        ValueError: If neither or both of ``labels`` and ``data`` are given, or a value is out of
            range.
        FileNotFoundError: If there is no file ``labels``.
        FileExistsError: If ``out`` is there and must not be replaced.

    Example:
        >>> import tempfile
        >>> folder = tempfile.mkdtemp()
        >>> write_label_file(f"{folder}/clean.npz", {"clean_label": torch.arange(10) % 5})
        >>> said = make_noise_file(f"{folder}/noisy.npz", 0.2, labels=f"{folder}/clean.npz")
        >>> said.rpartition("seed 0: ")[2]
        '2 wrong (20.0000%), per class 0.00% to 100.00%.'
    """
    out = check_path(_OWNER, "out", out, remedy="Name a file.")
    if not check_bool(_OWNER, "overwrite", overwrite) and Path(out).exists():
        remedy = "Or give --overwrite true."
        raise FileExistsError(message(_OWNER, "out", "to be a new file", out, remedy))
    remedy = "None takes the data module's, or the largest label plus 1."
    num_classes = check_int(_OWNER, "num_classes", num_classes, low=2, optional=True, remedy=remedy)
    noise = LabelNoise(kind, rate, seed)
    clean, num_found = _true_labels(labels, entry, data)
    num_classes = num_found if num_classes is None else num_classes
    noisy, mask = noise.apply(clean, num_classes)
    write_label_file(out, {"clean_label": clean, "noisy_label": noisy})
    return f"{out}: {_report(clean, mask, num_classes, noise)}"


def _true_labels(
    labels: str | None, entry: str, data: NoisyLabelDataModule | None
) -> tuple[Tensor, int]:
    """Return the true labels, shape (N,), int64, and how many classes there are."""
    if data is not None and labels is None:
        return data.clean_labels(), data.num_classes
    if data is not None or labels is None:
        value = "neither" if labels is None else "both"
        raise ValueError(message(_OWNER, "labels or data", "and only one", value, "Give one."))
    entries = read_label_file(labels)
    if entry not in entries:
        listed = ", ".join(sorted(entries))
        raise ValueError(message(_OWNER, f"entry {entry!r}", f"in {labels}", listed, "Name it."))
    return entries[entry], int(entries[entry].max()) + 1


def _report(clean: Tensor, mask: Tensor, num_classes: int, noise: LabelNoise) -> str:
    per_class = torch.bincount(clean[mask], minlength=num_classes).float()
    shares = per_class / torch.bincount(clean, minlength=num_classes).clamp_min(1)
    return (
        f"{len(clean)} labels, {num_classes} classes, {noise.kind} at rate {noise.rate:g}, seed "
        f"{noise.seed}: {int(mask.sum())} wrong ({mask.float().mean().item():.4%}), per class "
        f"{shares.min().item():.2%} to {shares.max().item():.2%}."
    )
