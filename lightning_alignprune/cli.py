"""`AlignPruneCLI`, the helper behind it, and the console script ``alignprune``.

Nothing here computes anything: it connects arguments with the callback, the data modules and the
noise models. Needs the extra ``cli``.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from typing_extensions import override

from lightning_alignprune._checks import message
from lightning_alignprune._extras import require
from lightning_alignprune.callback import DynamicPruningCallback
from lightning_alignprune.cli_words import PruningOff, RobustPruning, register_words
from lightning_alignprune.data import (
    LabelNoise,
    NoisyLabelDataModule,
    read_label_file,
    write_label_file,
)
from lightning_alignprune.functional.label_noise.by_name import NoiseModel
from lightning_alignprune.models import Classifier

_NAME = DynamicPruningCallback.__name__
_PRUNING_HELP = (
    "The pruning callback. --pruning.policy, --pruning.score, --pruning.signal and "
    "--pruning.schedule choose its parts; --pruning robust takes the preset for wrong labels; "
    "--pruning false trains on everything."
)


def add_pruning_arguments(parser: LightningArgumentParser, *, on: bool = True) -> None:
    """Give a LightningCLI of your own the ``--pruning`` arguments.

    Call it in ``add_arguments_to_parser``; the CLI then hands the callback to its Trainer. In YAML
    the key is ``pruning``, and its content that of the callback's arguments.

    Args:
        parser: What ``add_arguments_to_parser`` was given.
        on: Whether pruning is on unless switched off. Where it is off, ``--pruning
            DynamicPruningCallback`` switches it on and must come before ``--pruning.policy``.

    Raises:
        ModuleNotFoundError: If jsonargparse is not installed.

    Example:
        >>> class MyCLI(LightningCLI):
        ...     def add_arguments_to_parser(self, parser):
        ...         add_pruning_arguments(parser)
    """
    register_words(require("jsonargparse.typing", "cli", "add_pruning_arguments"))
    path = f"{DynamicPruningCallback.__module__}.{_NAME}"
    parser.add_argument(
        "--pruning",
        type=PruningOff | RobustPruning | DynamicPruningCallback,
        default={"class_path": path} if on else PruningOff(),
        help=_PRUNING_HELP,
    )
    parser.callback_keys.append("pruning")


class AlignPruneCLI(LightningCLI):
    """A LightningCLI that prunes: the usual one, with the ``--pruning`` arguments.

    Use it as you would use ``LightningCLI``, for your own module and data. A subclass that adds
    arguments of its own calls ``super().add_arguments_to_parser(parser)``.

    Where ``trainer.callbacks`` holds a ``DynamicPruningCallback`` already, that one is used.

    Raises:
        ModuleNotFoundError: If jsonargparse is not installed.

    Example:
        >>> def train():  # python train.py fit --config run.yaml --pruning.policy InfoBatch
        ...     AlignPruneCLI(MyModule, MyDataModule)
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        require("jsonargparse", "cli", type(self).__name__)
        super().__init__(*args, **kwargs)

    @override
    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the ``--pruning`` arguments."""
        add_pruning_arguments(parser)

    @override
    def before_instantiate_classes(self) -> None:
        """Leave the pruning to a callback that ``trainer.callbacks`` names itself."""
        config: Any = self.config[self.subcommand] if self.subcommand else self.config
        named = config.trainer.callbacks or []
        named = named if isinstance(named, list) else [named]
        paths = [str(getattr(callback, "class_path", "")) for callback in named]
        if not any(path.rpartition(".")[2] == _NAME for path in paths):
            return
        untouched = LightningArgumentParser()
        add_pruning_arguments(untouched)
        is_off = isinstance(config.pruning, PruningOff)
        if not is_off and config.pruning != untouched.parse_args([]).pruning:
            rank_zero_warn(
                f"{type(self).__name__}: the {_NAME} of trainer.callbacks is the one that prunes; "
                "what --pruning says has no effect. Give one of the two."
            )
        config.pruning = PruningOff()


def main(args: Sequence[str] | None = None) -> None:
    """Run the console script ``alignprune``.

    ``fit``, ``validate``, ``test`` and ``predict`` are those of Lightning, on this package's
    classifier and data modules; ``noise`` writes a file of noisy labels.
    """
    given = list(sys.argv[1:] if args is None else args)
    require("jsonargparse", "cli", "alignprune")
    if given[:1] == ["noise"]:
        _noise_command(given[1:])
        return
    _ConsoleCLI(
        Classifier,
        NoisyLabelDataModule,
        subclass_mode_data=True,
        auto_configure_optimizers=False,
        seed_everything_default=0,
        save_config_kwargs={"overwrite": True},  # fit, then test, in one folder
        args=args if args is None else given,
        parser_kwargs={
            "prog": "alignprune",
            "description": "Train on the samples worth training on. Besides the subcommands below "
            "there is `alignprune noise`, which writes a file of noisy labels.",
        },
    )


class _ConsoleCLI(AlignPruneCLI):
    @override
    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        super().add_arguments_to_parser(parser)
        parser.link_arguments(
            "data", "model.num_classes", compute_fn=_num_classes, apply_on="instantiate"
        )


def _num_classes(data: NoisyLabelDataModule) -> int:
    return data.num_classes


def _noise_command(args: ArgsType) -> None:
    jsonargparse = require("jsonargparse", "cli", "alignprune noise")
    parser = jsonargparse.ArgumentParser(
        prog="alignprune noise", description="Write a file of noisy labels and say what it did."
    )
    parser.add_function_arguments(make_noise_file)
    made = parser.instantiate(parser.parse_args(args))
    try:
        report = make_noise_file(**vars(made))
    except (ValueError, OSError) as error:
        parser.error(str(error))
    print(report)


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
        ValueError: If neither or both of ``labels`` and ``data`` are given, or a value is out of
            range.
        FileExistsError: If ``out`` is there and must not be replaced.
    """
    owner = "alignprune noise"
    if (labels is None) == (data is None):
        value = "both" if labels is not None else "neither"
        raise ValueError(message(owner, "labels or data", "and only one", value, "Give one."))
    if Path(out).exists() and not overwrite:
        raise FileExistsError(
            message(owner, "out", "to be a new file", out, "Or give --overwrite true.")
        )
    if data is not None:
        clean = data.clean_labels()
        num_classes = num_classes or data.num_classes
    else:
        entries = read_label_file(str(labels))
        if entry not in entries:
            listed = ", ".join(sorted(entries))
            raise ValueError(message(owner, f"entry {entry!r}", f"in {labels}", listed, "Name it."))
        clean = entries[entry]
        num_classes = num_classes or int(clean.max()) + 1
    noisy, mask = LabelNoise(kind, rate, seed).apply(clean, num_classes)
    write_label_file(out, {"clean_label": clean, "noisy_label": noisy})
    per_class = torch.bincount(clean[mask], minlength=num_classes).float()
    shares = per_class / torch.bincount(clean, minlength=num_classes).clamp_min(1)
    return (
        f"{out}: {len(clean)} labels, {num_classes} classes, {kind} at rate {rate:g}, seed {seed}: "
        f"{int(mask.sum())} wrong ({mask.float().mean().item():.4%}), per class "
        f"{shares.min().item():.2%} to {shares.max().item():.2%}."
    )
