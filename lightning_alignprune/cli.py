"""`AlignPruneCLI`, the helper behind it, and the console script ``alignprune``.

Nothing here computes anything: it connects arguments with the callback, the data modules and the
noise models. Needs the extra ``cli``.
"""

import os
import re
import sys
from collections.abc import Callable, Sequence
from inspect import signature
from typing import Any, NamedTuple, NoReturn

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from typing_extensions import override

from lightning_alignprune._checks import did_you_mean
from lightning_alignprune._command_errors import is_refusal, names_of_subclasses, one_line
from lightning_alignprune._extras import require
from lightning_alignprune.audit.commands import audit_checkpoint, report_checkpoint
from lightning_alignprune.callback import DynamicPruningCallback
from lightning_alignprune.coreset import CoresetRun
from lightning_alignprune.data import NoisyLabelDataModule
from lightning_alignprune.data.noise_file import make_noise_file
from lightning_alignprune.data.settings import MOVED
from lightning_alignprune.models import Classifier
from lightning_alignprune.presets import PRESETS

_NAME = DynamicPruningCallback.__name__
_PRUNING_HELP = (
    "The pruning callback. --pruning.policy, --pruning.score, --pruning.signal and "
    "--pruning.schedule choose its parts; --pruning WORD takes a preset ("
    f"{', '.join(PRESETS)}); --pruning false trains on everything."
)


# ---- words in the place of the callback's arguments: jsonargparse takes a word as a value of a
# registered type ---------------------------------------------------------------------------------

_WAYS = f"expected false, {', '.join(PRESETS)}, or arguments of {_NAME}"


class PruningOff(Callback):
    """Stands where the pruning callback would be, and does nothing: ``--pruning false``."""


class PresetPruning(DynamicPruningCallback):
    """``--pruning WORD``: what the classmethod of that name gives.

    A reference, where the method needs one, is found as without an argument: by a
    ``reference_dataloader`` hook, else in the validation pass.
    """

    def __init__(self, word: str) -> None:
        preset: DynamicPruningCallback = getattr(DynamicPruningCallback, word)()
        super().__init__(**preset.parts._asdict())
        self.word = word

    @property
    @override
    def state_key(self) -> str:
        # A run goes on from its checkpoint whichever way the preset is spelled.
        return _NAME


def _register_words(typing: Any) -> None:
    """Teach ``jsonargparse.typing`` the words."""
    for kind, to_yaml, from_yaml in (
        (PruningOff, _off_to_yaml, _off_from_yaml),
        (PresetPruning, _preset_to_yaml, _preset_from_yaml),
    ):
        typing.register_type(kind, to_yaml, from_yaml, fail_already_registered=False)


def _off_to_yaml(value: object) -> bool:
    if not isinstance(value, PruningOff):
        raise ValueError("this is not the switched-off pruning")
    return False


def _off_from_yaml(value: object) -> PruningOff:
    if value is False or (isinstance(value, str) and value.lower() == "false"):
        return PruningOff()
    raise ValueError(_WAYS)


def _preset_to_yaml(value: object) -> str:
    if not isinstance(value, PresetPruning):
        raise ValueError("this is not a preset")
    return value.word


def _preset_from_yaml(value: object) -> PresetPruning:
    if not isinstance(value, str):
        raise ValueError(_WAYS)
    if value.lower() in PRESETS:
        return PresetPruning(value.lower())
    words = ["false", *PRESETS, _NAME]
    raise ValueError(f"--pruning: {_WAYS}, got {value!r}.{did_you_mean(value, words)}")


# ---- the arguments and the command lines --------------------------------------------------------


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
    _register_words(require("jsonargparse.typing", "cli", "add_pruning_arguments"))
    path = f"{DynamicPruningCallback.__module__}.{_NAME}"
    parser.add_argument(
        "--pruning",
        type=PruningOff | PresetPruning | DynamicPruningCallback,
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
        self._parsers: list[LightningArgumentParser] = []
        super().__init__(*args, **kwargs)

    @override
    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """Make a parser whose errors are one line."""
        parser: LightningArgumentParser = super().init_parser(**kwargs)
        self._parsers.append(parser)
        _end_errors_with_one_line(parser, self._parsers)
        return parser

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

    @override
    def instantiate_classes(self) -> None:
        """Make the objects; a refused value is said without the configuration around it."""
        try:
            super().instantiate_classes()
        except ValueError as error:
            if not is_refusal(error):
                raise
            raise ValueError(one_line(str(error))) from error


def _end_errors_with_one_line(parser: Any, family: Sequence[Any]) -> None:
    """Let a parser name what was wrong, without all arguments before and all values after it.

    Args:
        parser: Whose errors.
        family: The parsers whose options a user may have meant.
    """
    refuse: Callable[[str, Exception | None], NoReturn] = parser.error

    def refuse_in_one_line(message: str, ex: Exception | None = None) -> NoReturn:
        defaults = [member.get_defaults(skip_validation=True) for member in family]
        options = dict.fromkeys(key for values in defaults for key, _ in values.items())
        refuse(one_line(message, options) + _hint(message), ex)

    parser.error = refuse_in_one_line
    parser.print_usage = lambda file=None: None  # the tip that follows says how to get it


def _hint(message: str) -> str:
    """Say what jsonargparse cannot know: where an old name went, which data there are."""
    if re.search(r"are required: (?:\w+\.)?data$", message):
        names = ", ".join(names_of_subclasses(NoisyLabelDataModule))
        return f" Choose one of {names}, or give a --config that names one."
    unknown = re.findall(r"'(?:data\.)?(\w+)' is not (?:accepted|expected)", message)
    known = {name: ".".join(MOVED[name]) for name in unknown if name in MOVED}
    return "".join(f" {name} is now data.{place}." for name, place in known.items())


# ---- the console script -------------------------------------------------------------------------


class Command(NamedTuple):
    """A subcommand of ``alignprune`` beside those of the Trainer.

    Attributes:
        function: Does it. Its arguments are those of the command; what it returns is printed.
        help: What it does, in a sentence.
        takes_positional: Whether what it cannot do without comes first and needs no name.
    """

    function: Callable[..., object]
    help: str
    takes_positional: bool = False


COMMANDS = {
    "noise": Command(make_noise_file, "Write a file of noisy labels and say what it did."),
    "audit": Command(
        audit_checkpoint, "Say which labels look wrong to the run that wrote a checkpoint.", True
    ),
    "report": Command(
        report_checkpoint, "Write one HTML page about the run that wrote a checkpoint.", True
    ),
}
_CORESET = "coreset"  # a command that takes what `fit` does
_HELP = "Train on the samples worth training on."
_CORESET_HELP = "Choose a coreset after a warm-up, and train on it from the start."


def main(args: Sequence[str] | None = None) -> None:
    """Run the console script ``alignprune``.

    ``fit``, ``validate`` and ``test`` are those of Lightning, on this package's classifier and
    data modules; ``coreset`` is ``fit`` by way of a :class:`CoresetRun`; ``COMMANDS`` has the
    others.
    """
    given = list(sys.argv[1:] if args is None else args)
    require("jsonargparse", "cli", "alignprune")
    if given[:1] and given[0] in COMMANDS:
        _run_command(given[0], given[1:])
        return
    try:
        if given[:1] == [_CORESET]:
            _CoresetCLI(args=given[1:], run=False, **_settings("alignprune coreset")).train()
        else:
            _ConsoleCLI(args=args if args is None else given, **_settings("alignprune"))
    except Exception as error:
        if not is_refusal(error) or "JSONARGPARSE_DEBUG" in os.environ:
            raise
        sys.exit(f"error: {one_line(str(error))}")


def _settings(prog: str) -> dict[str, Any]:
    """What the CLIs of the console script have in common."""
    description = _CORESET_HELP if prog.endswith(_CORESET) else _HELP
    return {
        "model_class": Classifier,
        "datamodule_class": NoisyLabelDataModule,
        "subclass_mode_data": True,
        "auto_configure_optimizers": False,
        "seed_everything_default": 0,
        "save_config_kwargs": {"overwrite": True},  # fit, then test, in one folder
        "parser_kwargs": {"prog": prog, "description": description},
    }


class _ConsoleCLI(AlignPruneCLI):
    @staticmethod
    @override
    def subcommands() -> dict[str, set[str]]:
        # The data modules have nothing to predict on beside the test set, and nothing is written.
        return {k: v for k, v in LightningCLI.subcommands().items() if k != "predict"}

    @override
    def setup_parser(self, *args: Any, **kwargs: Any) -> None:
        super().setup_parser(*args, **kwargs)
        listed = next(
            action for action in self.parser._actions if hasattr(action, "add_subcommand")
        )
        for name, command in COMMANDS.items():
            listed.add_subcommand(name, _command_parser(name), help=command.help)
        coreset = LightningArgumentParser(prog="alignprune coreset", description=_CORESET_HELP)
        listed.add_subcommand(_CORESET, coreset, help=_CORESET_HELP)

    @override
    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        super().parse_arguments(parser, args)
        if self.config.subcommand in (*COMMANDS, _CORESET):
            parser.error(f"expected {self.config.subcommand} as the first word, got it later.")

    @override
    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        super().add_arguments_to_parser(parser)
        _link_num_classes(parser)


class _CoresetCLI(AlignPruneCLI):
    """The arguments of ``fit`` but for ``--pruning``, and those of the protocol."""

    @override
    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        # The seed is that of --seed_everything.
        parser.add_class_arguments(CoresetRun, skip={"seed"}, instantiate=False)
        parser.add_argument(
            "--ckpt_path", type=str | None, help="Resume the training on the coreset from there."
        )
        _link_num_classes(parser)

    @override
    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        # Not Lightning's own, which warns that sys.argv has more.
        self.config = parser.parse_args(args)  # type: ignore[arg-type]

    @override
    def before_instantiate_classes(self) -> None:
        """Leave callbacks alone: the protocol refuses one that prunes."""

    def train(self) -> None:
        """Warm up, choose, and train on what was chosen."""
        names = [name for name in signature(CoresetRun).parameters if name != "seed"]
        run = CoresetRun(**{name: self.config_init[name] for name in names})
        run.fit(self._make_module, self.datamodule, self._make_trainer, self.config.ckpt_path)

    def _make_module(self) -> LightningModule:
        module: LightningModule = self.parser.instantiate_classes(self.config).model
        return module

    def _make_trainer(self, **kwargs: Any) -> Trainer:
        self.config_init = self.parser.instantiate_classes(self.config)  # callbacks of its own
        return self.instantiate_trainer(**kwargs)


def _link_num_classes(parser: LightningArgumentParser) -> None:
    parser.link_arguments(
        "data", "model.num_classes", compute_fn=_num_classes, apply_on="instantiate"
    )


def _num_classes(data: NoisyLabelDataModule) -> int:
    return data.num_classes


def _command_parser(name: str) -> Any:
    jsonargparse = require("jsonargparse", "cli", f"alignprune {name}")
    function, description, takes_positional = COMMANDS[name]
    parser = jsonargparse.ArgumentParser(prog=f"alignprune {name}", description=description)
    parser.add_function_arguments(function, as_positional=takes_positional)
    _end_errors_with_one_line(parser, [parser])
    return parser


def _run_command(name: str, args: Sequence[str]) -> None:
    parser = _command_parser(name)
    made = parser.instantiate(parser.parse_args(args))
    try:
        said = COMMANDS[name].function(**vars(made))
    except (ValueError, OSError) as error:
        parser.error(str(error), error)
    print(said)
