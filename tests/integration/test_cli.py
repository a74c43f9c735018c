"""The command line, as a user types it: real runs on small made data, YAML files, typing errors."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import LightningDataModule
from lightning.pytorch.cli import LightningCLI
from torch.utils.data import DataLoader

import lightning_alignprune.cli as console
from lightning_alignprune import (
    DynamicAlignment,
    DynamicPruningCallback,
    InfoBatch,
    LabelOdds,
    LabelPosterior,
    LastLoss,
    PosteriorCut,
)
from lightning_alignprune.cli import AlignPruneCLI, PruningOff, add_pruning_arguments, main
from lightning_alignprune.coreset import read_indices, write_indices
from lightning_alignprune.data import read_label_file
from lightning_alignprune.functional import symmetric_uniform
from lightning_alignprune.presets import PRESETS
from tests.conftest import TinyModule, make_data
from tests.unit.data.made import (
    jpeg_archive,
    make_cifar10,
    make_cifar100,
    make_clothing,
    make_human_labels,
    make_imagenet,
    make_news,
    make_webvision,
)

pytestmark = [
    # LightningCLI calls names that jsonargparse has renamed; not ours to change.
    pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*args parameter is intended to run from within Python"),
]


class TinyData(LightningDataModule):
    """What a user has already: nothing of this package in it but the reference hook."""

    def __init__(self, noise: float = 0.3) -> None:
        super().__init__()
        self.noise = noise

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(make_data(64, 0, self.noise), batch_size=8, shuffle=True)

    def reference_dataloader(self) -> DataLoader[Any]:
        return DataLoader(make_data(16, 1, 0.0), batch_size=8)

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(make_data(16, 2, 0.0), batch_size=8)


QUIET = [
    "--seed_everything=1",
    "--trainer.accelerator=cpu",
    "--trainer.logger=false",
    "--trainer.enable_checkpointing=false",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
]
# The two lines of the README, as they are typed.
POLICY_LINE = "--pruning.policy InfoBatch --pruning.policy.prune_probability 0.7"
SCORE_LINE = "--pruning.score DynamicAlignment --pruning.score.window 25"


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train.py"])


def cli(*args: str, kind: type[LightningCLI] = AlignPruneCLI, run: bool = False) -> Any:
    kwargs: Any = {"save_config_kwargs": {"overwrite": True}}
    return kind(TinyModule, TinyData, args=[*args], run=run, **kwargs)


def pruner(made: Any) -> DynamicPruningCallback:
    found = [c for c in made.trainer.callbacks if isinstance(c, DynamicPruningCallback)]
    assert len(found) == 1
    return found[0]


# ---- the --pruning arguments --------------------------------------------------------------------


def test_pruning_is_on_with_the_defaults_of_the_callback() -> None:
    callback = pruner(cli(*QUIET))
    assert isinstance(callback.score, DynamicAlignment)
    assert isinstance(callback.policy, InfoBatch)


def test_the_lines_of_the_readme_reach_the_callback() -> None:
    callback = pruner(cli(*QUIET, *POLICY_LINE.split(), *SCORE_LINE.split()))
    assert callback.policy.prune_probability == 0.7
    assert callback.score.window == 25


def test_names_without_arguments_and_nested_settings_are_accepted() -> None:
    callback = pruner(
        cli(
            *QUIET,
            "--pruning.score=loss",
            "--pruning.signal=BatchLoss",
            "--pruning.signal.alpha=0.8",
            "--pruning.schedule.start_epoch=3",
            "--pruning.schedule.finish=selected",
        )
    )
    assert isinstance(callback.score, LastLoss)
    assert callback.signal.alpha == 0.8
    assert (callback.schedule.start_epoch, callback.schedule.finish) == (3, "selected")


@pytest.mark.parametrize(("word", "key"), [("index", "index"), ("2", 2), ("-1", -1)])
def test_a_key_or_a_position_of_the_samples_indices(word, key):
    callback = pruner(cli(*QUIET, "--pruning.score=loss", f"--pruning.sample_index={word}"))
    assert callback.sample_index == key
    assert type(callback.sample_index) is type(key)


def test_a_choice_within_batches_by_name_and_with_its_arguments():
    words = ("--pruning.score=loss", "--pruning.policy=RS2", "--pruning.in_batch=DivBS")
    assert pruner(cli(*QUIET, *words)).in_batch.keep_fraction == 0.5
    callback = pruner(cli(*QUIET, *words, "--pruning.in_batch.keep_fraction=0.3"))
    assert callback.in_batch.keep_fraction == 0.3


@pytest.mark.parametrize("word", ["[4, 1]", "[false, true, false, false, true]"])
def test_trusted_samples_as_a_list(word):
    callback = pruner(cli(*QUIET, "--pruning.score=loss", f"--pruning.trusted={word}"))
    assert callback.trusted.indices.tolist() == [1, 4]


def test_trusted_samples_from_a_yaml_file(tmp_path):
    config = tmp_path / "run.yaml"
    config.write_text(yaml.safe_dump({"pruning": {"score": "loss", "trusted": [4, 1]}}))
    made = cli("fit", *QUIET, f"--config={config}", "--trainer.max_epochs=1", run=True)
    assert made.trainer.callbacks[0].trusted.indices.tolist() == [1, 4]


def test_the_robust_preset_by_its_word():
    made = cli("fit", *QUIET, "--pruning=robust", "--trainer.max_epochs=8", run=True)
    callback = made.trainer.callbacks[0]
    assert isinstance(callback.signal, LabelOdds)
    assert isinstance(callback.score, LabelPosterior)
    assert isinstance(callback.policy, PosteriorCut)
    assert callback.state_key == "DynamicPruningCallback"
    assert callback.signal.loss_ranks.reference.shape == (16,)


def settings_of(part):
    """What a part was made with, without what it learns."""
    return {name: value for name, value in vars(part).items() if not name.startswith("_")}


@pytest.mark.parametrize("word", PRESETS)
def test_every_preset_by_its_word(word: str, tmp_path: Path) -> None:
    config = tmp_path / "run.yaml"
    config.write_text(f"pruning: {word}\n")
    expected = getattr(DynamicPruningCallback, word)()
    for args in ([f"--pruning={word}"], ["--config", str(config)]):
        made = pruner(cli(*QUIET, *args))
        assert [type(part) for part in made.parts] == [type(part) for part in expected.parts]
        assert [settings_of(part) for part in made.parts] == list(map(settings_of, expected.parts))
        assert made.state_key == expected.state_key


def test_the_yaml_that_spells_the_preset_out(tmp_path):
    spelled = yaml.safe_load((CONFIGS / "method_robust.yaml").read_text())
    config = tmp_path / "robust.yaml"
    config.write_text(yaml.safe_dump(spelled))
    made = cli(*QUIET, f"--config={config}").trainer.callbacks[0]
    preset = DynamicPruningCallback.robust()
    for part in ("signal", "score", "policy", "schedule"):
        assert settings_of(getattr(made, part)) == settings_of(getattr(preset, part)), part


@pytest.mark.parametrize("args", [["--pruning", "false"], ["--pruning=False"]])
def test_pruning_false_switches_it_off(args: list[str]) -> None:
    made = cli(*QUIET, *args)
    assert not any(isinstance(c, DynamicPruningCallback) for c in made.trainer.callbacks)


@pytest.mark.parametrize(
    ("content", "probability"),
    [
        ({"policy": "InfoBatch", "score": "loss"}, 0.5),
        ({"policy": {"class_path": "InfoBatch", "init_args": {"prune_probability": 0.7}}}, 0.7),
        (
            {
                "class_path": "DynamicPruningCallback",
                "init_args": {"policy": {"class_path": "lightning_alignprune.InfoBatch"}},
            },
            0.5,
        ),
        (False, None),
    ],
)
def test_yaml_takes_the_callback_with_and_without_its_name(content, probability) -> None:
    Path("run.yaml").write_text(yaml.safe_dump({"pruning": content}))
    made = cli("--config=run.yaml", *QUIET)
    if probability is None:
        assert any(isinstance(c, PruningOff) for c in made.trainer.callbacks)
    else:
        assert pruner(made).policy.prune_probability == probability


def test_a_run_prunes_and_a_run_without_does_not() -> None:
    on = cli("fit", *QUIET, *POLICY_LINE.split(), "--trainer.max_epochs=7", run=True)
    off = cli("fit", *QUIET, "--pruning=false", "--trainer.max_epochs=7", run=True)
    assert off.trainer.global_step == 56
    assert on.trainer.global_step < 56
    assert pruner(on).trajectories.num_samples == 64


@pytest.mark.parametrize(
    "args",
    [
        [],
        [*POLICY_LINE.split(), *SCORE_LINE.split()],
        ["--pruning=false"],
        ["--pruning=robust"],
        ["--pruning.score=loss"],
    ],
)
def test_print_config_round_trips(args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    def printed(*given: str) -> str:
        with pytest.raises(SystemExit) as stop:
            cli("fit", *given, "--print_config", run=True)
        assert stop.value.code == 0
        return capsys.readouterr().out

    first = printed(*QUIET, *args)
    Path("run.yaml").write_text(first)
    assert printed("--config=run.yaml") == first
    pruning = yaml.safe_load(first)["pruning"]
    assert (pruning is False) == ("--pruning=false" in args)


def test_the_saved_config_of_a_run_starts_the_same_run() -> None:
    cli("fit", *QUIET, *POLICY_LINE.split(), "--trainer.max_epochs=6", run=True)
    again = cli("fit", "--config=config.yaml", run=True)
    assert again.trainer.max_epochs == 6
    assert pruner(again).policy.prune_probability == 0.7


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (["--pruning.policy.prune_probabilty=0.3"], "'prune_probabilty' is not accepted"),
        (["--pruning.scor=loss"], "'scor' is not accepted"),
        (["--pruning.policy=InfoBach"], "got 'InfoBach'"),
        (["--pruning.policy.prune_probability=1.3"], "expected prune_probability in [0, 1]"),
        (["--pruning.score.window=2"], "expected window in [4, inf), got 2"),
        (
            ["--pruning=maybe"],
            "expected false, infobatch, seta, bls, alignprune, robust, or arguments of Dynamic",
        ),
    ],
)
def test_typing_errors_and_bad_values_name_the_key(args, text, capsys) -> None:
    with pytest.raises((SystemExit, ValueError)) as stop:
        cli(*QUIET, *args)
    assert text in capsys.readouterr().err + str(stop.value)


# ---- other people's CLIs ------------------------------------------------------------------------


def test_one_call_gives_any_cli_the_arguments() -> None:
    class TheirCLI(LightningCLI):
        def add_arguments_to_parser(self, parser: Any) -> None:
            add_pruning_arguments(parser, on=False)

    off = cli(*QUIET, kind=TheirCLI)
    assert not any(isinstance(c, DynamicPruningCallback) for c in off.trainer.callbacks)
    on = cli(*QUIET, "--pruning=DynamicPruningCallback", "--pruning.score=loss", kind=TheirCLI)
    assert isinstance(pruner(on).score, LastLoss)


CALLBACK_LINE = (
    "--trainer.callbacks=DynamicPruningCallback --trainer.callbacks.score=DynamicAlignment "
    "--trainer.callbacks.score.window=7"
)


@pytest.mark.parametrize("kind", [LightningCLI, AlignPruneCLI])
def test_the_callback_is_found_by_its_short_name_in_any_cli(kind: type[LightningCLI]) -> None:
    assert pruner(cli(*QUIET, *CALLBACK_LINE.split(), kind=kind)).score.window == 7


def test_class_path_works_in_a_yaml_of_any_cli() -> None:
    callback = {
        "class_path": "lightning_alignprune.DynamicPruningCallback",
        "init_args": {"score": "loss", "policy": {"class_path": "InfoBatch"}},
    }
    Path("run.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks": [callback]}}))
    made = cli(
        "fit", "--config=run.yaml", *QUIET, "--trainer.max_epochs=3", kind=LightningCLI, run=True
    )
    assert isinstance(pruner(made).score, LastLoss)


def test_two_callbacks_are_one_with_a_warning_where_a_setting_is_lost() -> None:
    with pytest.warns(UserWarning, match="what --pruning says has no effect"):
        made = cli(*QUIET, *CALLBACK_LINE.split(), "--pruning.score=loss")
    assert pruner(made).score.window == 7


# ---- the console script -------------------------------------------------------------------------


def test_alignprune_fits_validates_and_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    jpeg_archive(Path("images.npz"), num_train=40, num_test=8)
    runs: list[Any] = []
    original = console._ConsoleCLI.before_instantiate_classes
    monkeypatch.setattr(
        console._ConsoleCLI,
        "before_instantiate_classes",
        lambda self: (runs.append(self), original(self))[1],
    )
    data = (
        "--data CIFAR10DataModule --data.jpeg_archive images.npz --data.split.reference_size 4 "
        "--data.split.val_size 4 --data.loading.batch_size 8 --data.noise.kind symmetric_uniform "
        "--data.noise.rate 0.5"
    )
    model = "--model.network small_cnn --model.optimizer.lr 0.05 --model.label_smoothing 0.1"
    common = [*data.split(), *model.split(), *QUIET]
    main(["fit", *common, *POLICY_LINE.split(), *SCORE_LINE.split(), "--trainer.max_epochs=6"])
    assert 8 < runs[0].trainer.global_step < 24
    assert runs[0].datamodule.noise_rate == pytest.approx(0.5, abs=0.2)
    assert runs[0].model.network[-1].out_features == 10
    main(["validate", *common])
    main(["test", *common])
    assert "test_acc" in runs[2].trainer.callback_metrics


@pytest.mark.parametrize(
    ("name", "now"),
    [
        ("batch_size", "data.loading.batch_size"),
        ("split_seed", "data.split.seed"),
        ("reference_size", "data.split.reference_size"),
    ],
)
@pytest.mark.parametrize("in_yaml", [False, True])
def test_an_old_flat_name_says_how_it_is_written_now(name, now, in_yaml, capsys) -> None:
    Path("run.yaml").write_text(
        yaml.safe_dump({"data": {"class_path": "CIFAR10DataModule", "init_args": {name: 3}}})
    )
    line = "--config run.yaml" if in_yaml else f"--data CIFAR10DataModule --data.{name} 3"
    with pytest.raises(SystemExit):
        main(["fit", *line.split()])
    assert f"{name} is now {now}." in capsys.readouterr().err


def test_the_yaml_of_the_migration_note_is_read(capsys: pytest.CaptureFixture[str]) -> None:
    note = (CONFIGS.parents[1] / "CHANGELOG.md").read_text().partition("  data:  # now")[2]
    Path("run.yaml").write_text("data:" + note.partition("  ```")[0])
    with pytest.raises(SystemExit) as stop:
        main(["fit", "--config", "run.yaml", "--print_config"])
    assert stop.value.code == 0
    data = yaml.safe_load(capsys.readouterr().out)["data"]["init_args"]
    assert data["split"] == {
        "reference_size": 1000,
        "val_size": 500,
        "train_size": None,
        "seed": 3,
        "reference_source": "held_out",
        "reference_transform": "eval",
    }
    assert data["loading"]["batch_size"] == 64


CIFAR = "fit --data CIFAR10DataModule"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            f"{CIFAR} --pruning robst",
            "--pruning: expected false, infobatch, seta, bls, alignprune, robust, or arguments of "
            "DynamicPruningCallback, got 'robst'. Did you mean 'robust'?",
        ),
        (
            f"{CIFAR} --pruning.score DynamicAlignment --pruning.score.windw 3",
            "--pruning.score.windw: 'windw' is not accepted by DynamicAlignment. "
            "Did you mean 'window'?",
        ),
        (
            f"{CIFAR} --pruning.score.window abc",
            "--pruning.score.window: expected int or null, got 'abc'.",
        ),
        (
            f"{CIFAR} --pruning.score.window 2",
            "DynamicAlignment: expected window in [4, inf), got 2. A window shorter than "
            "min_observations defines no score. Use None for the whole history.",
        ),
        (
            f"{CIFAR} --pruning.schedule.finish ful",
            "--pruning.schedule.finish: expected one of 'full', 'partial', 'selected' or null, "
            "got 'ful'. Did you mean 'full'?",
        ),
        (
            f"{CIFAR} --data.noise.knd pairflip",
            "--data.noise.knd: 'knd' is not accepted by LabelNoise. Did you mean 'kind'?",
        ),
        (
            f"{CIFAR} --data.nois.kind pairflip",
            "--data.nois.kind: 'nois' is not accepted by CIFAR10DataModule. Did you mean 'noise'?",
        ),
        (
            f"{CIFAR} --model.netwrk mlp3",
            "--model.netwrk: there is no such option. Did you mean '--model.network'?",
        ),
        (
            f"{CIFAR} --trainer.callbacks EarlyStoping",
            "--trainer.callbacks: there is no class 'EarlyStoping'. Did you mean 'EarlyStopping'?",
        ),
        ("fit --data my.Data", "--data: 'my.Data' cannot be imported: No module named 'my'."),
        ("fi --data CIFAR10DataModule", "got 'fi'. Did you mean 'fit'?"),
        (
            "predict",
            "expected one of fit, validate, test, noise, audit, report, coreset, got 'predict'.",
        ),
        ("noise --knd pairflip", "--knd: there is no such option. Did you mean '--kind'?"),
        (f"{CIFAR} --config none.yaml", "--config: File does not exist: '{here}/none.yaml'"),
    ],
)
def test_an_error_ends_with_one_line_and_the_closest_names(line, expected, tmp_path, capsys):
    assert errors_of(line.split(), capsys)[-1].endswith(expected.format(here=tmp_path))


def errors_of(args: list[str], capsys) -> list[str]:
    """What a refused command line leaves on the screen: few lines, the last one says it."""
    with pytest.raises(SystemExit) as stop:
        main(args)
    lines = capsys.readouterr().err.splitlines()
    if isinstance(stop.value.code, str):  # what Python prints
        lines += stop.value.code.splitlines()
    assert stop.value.code != 0
    assert lines[-1].startswith("error: ")
    assert not any("Namespace" in line or "[--" in line for line in lines)
    return lines


def test_a_misspelt_data_module_and_none_at_all(capsys: pytest.CaptureFixture[str]) -> None:
    misspelt = errors_of(["fit", "--data", "ImageFoldrDataModule"], capsys)[-1]
    assert "there is no class 'ImageFoldrDataModule'. Did you mean 'ImageFolderDataModule'" in (
        misspelt
    )
    for args in (["fit"], ["fit", "--data.data_dir", "here"]):
        missing = errors_of(args, capsys)[-1]
        assert "--data" in missing
        assert "CIFAR10DataModule" in missing


@pytest.mark.parametrize("text", ["model: {netwrk: mlp3}", "pruning: {score: {init_args: 3}}"])
def test_an_error_in_a_yaml_file_is_one_line_too(text, capsys) -> None:
    Path("run.yaml").write_text(f"data: CIFAR10DataModule\n{text}\n")
    errors_of(["fit", "--config", "run.yaml"], capsys)


def test_a_misspelt_network_names_the_closest(capsys: pytest.CaptureFixture[str]) -> None:
    jpeg_archive(Path("images.npz"), num_train=40)
    data = ["--data=CIFAR10DataModule", "--data.jpeg_archive=images.npz"]
    last = errors_of(["fit", *data, "--model.network=resnt18", *QUIET], capsys)[-1]
    assert "got 'resnt18'. Did you mean 'resnet18'" in last


def test_data_that_are_not_there_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    args = [*CIFAR.split(), *QUIET, "--trainer.max_epochs=1", "--data.data_dir=nowhere"]
    args += ["--model.network=small_cnn"]
    last = errors_of(args, capsys)[-1]
    assert "expected the folder cifar-10-batches-py" in last


def test_what_is_no_refusal_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: object, stage: str) -> None:
        raise ValueError("a fault of the program")

    monkeypatch.setattr(console.NoisyLabelDataModule, "setup", broken)
    with pytest.raises(ValueError, match="a fault of the program"):
        main([*CIFAR.split(), *QUIET, "--model.network=small_cnn", "--trainer.fast_dev_run=true"])


@pytest.mark.parametrize(
    "args", [["--help"], ["fit", "--help"], ["noise", "--help"], ["coreset", "--help"]]
)
def test_help_is_printed(args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(args)
    assert stop.value.code == 0
    text = capsys.readouterr().out
    listed = {
        "--help": "    noise ",
        "fit": "--pruning",
        "noise": "--rate",
        "coreset": "--fraction",
    }
    assert listed[args[0]] in text


@pytest.mark.parametrize(
    "line",
    [
        "--pruning.help",
        "--pruning.policy.help=InfoBatch",
        "--pruning.score.help=DynamicAlignment",
        "--data.help=CIFAR10DataModule",
    ],
)
def test_help_of_the_parts_has_their_words(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["fit", line])
    assert stop.value.code == 0
    assert len(capsys.readouterr().out) > 300


# ---- the configurations that ship with the package ----------------------------------------------

CONFIGS = Path(__file__).parents[2] / "examples" / "configs"
METHODS = sorted(CONFIGS.glob("method_*.yaml"))
SMALL_PARTS = "--data.split.reference_size 4 --data.split.val_size 4 --data.loading.num_workers 0"
SMALL_IMAGES = (
    "--data.loading.num_workers 0 --data.loading.batch_size 4 --data.image_size 32 "
    "--model.optimizer.lr 1e-4 --model.network torchvision/resnet18"
)


def prepare(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Make the data of a configuration; return what shrinks it to a test's size."""
    if name == "cifar10n_worse":
        make_cifar10(folder, monkeypatch)
        make_human_labels(folder, torch.arange(50) % 10, 10)
        return f"{SMALL_PARTS} --trainer.precision 32 --data.loading.batch_size 2"
    if name == "cifar100n":
        make_cifar100(folder, monkeypatch)
        make_human_labels(folder, torch.arange(200) % 100, 100)
        return f"{SMALL_PARTS} --trainer.precision 32 --data.loading.batch_size 2"
    if name == "news_symmetric":
        make_news(folder)
        network = {
            "class_path": "lightning_alignprune.models.mlp3",
            "init_args": {"num_features": 4},
        }
        Path("network.yaml").write_text(yaml.safe_dump(network))
        small = "--data.num_terms 30 --data.num_features 4 --model.network network.yaml"
        return f"{SMALL_PARTS} {small}"
    if name == "webvision":
        make_webvision(folder)
        return f"{SMALL_IMAGES} --data.first_classes 4"
    if name == "clothing1m":
        make_clothing(folder)
        return f"{SMALL_IMAGES} --model.pretrained false"
    make_imagenet(folder)
    return f"{SMALL_IMAGES} {SMALL_PARTS} --trainer.precision 32"


@pytest.mark.parametrize(
    "config", sorted(set(CONFIGS.glob("*.yaml")) - set(METHODS)), ids=lambda path: path.stem
)
def test_every_configuration_runs_on_made_data(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = prepare(config.stem, tmp_path, monkeypatch)
    method = CONFIGS / "method_alignprune.yaml"
    line = f"fit --config {config} --config {method} --data.data_dir {tmp_path} {small}"
    main([*line.split(), *QUIET, "--trainer.fast_dev_run=true"])


@pytest.mark.parametrize("method", METHODS, ids=lambda path: path.stem)
def test_every_method_file_prunes_as_it_says(method: Path) -> None:
    made = cli(f"--config={method}", *QUIET)
    said = yaml.safe_load(method.read_text())["pruning"]
    if said is False:
        assert any(isinstance(c, PruningOff) for c in made.trainer.callbacks)
        return
    callback = pruner(made)
    assert type(callback.policy).__name__ == said["policy"]["class_path"]
    for name, value in said["policy"]["init_args"].items():
        assert getattr(callback.policy, name) == value
    if said["score"] != "loss":
        assert type(callback.score).__name__ == said["score"]["class_path"]


# ---- alignprune coreset -------------------------------------------------------------------------

MADE = (
    "--data CIFAR10DataModule --data.jpeg_archive images.npz --data.split.reference_size 4 "
    "--data.split.val_size 4 --data.loading.batch_size 8 --data.noise.kind symmetric_uniform "
    "--data.noise.rate 0.4 --model.network small_cnn --trainer.max_epochs 2"
)


def coreset(*args: str) -> None:
    main(["coreset", *MADE.split(), *QUIET, "--warmup_epochs=2", *args])


def test_coreset_warms_up_chooses_and_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    jpeg_archive(Path("images.npz"), num_train=40, num_test=8)
    trainers: list[Any] = []
    original = console._CoresetCLI.instantiate_trainer

    def instantiate(self: Any, **kwargs: Any) -> Any:
        trainers.append(original(self, **kwargs))
        return trainers[-1]

    monkeypatch.setattr(console._CoresetCLI, "instantiate_trainer", instantiate)
    dual = "--method DUAL --method.window 2 --method.sampling beta --fraction 0.3"
    stopping = "--trainer.callbacks EarlyStopping --trainer.callbacks.monitor val_loss"
    coreset(*dual.split(), "--path=kept.txt", *stopping.split())
    kept = read_indices("kept.txt")
    assert len(kept) == round(0.3 * 32)
    _, warmed, trained = trainers
    assert warmed.global_step == 2 * 4
    assert trained.global_step == 2 * -(-len(kept) // 8)
    assert not {*map(id, warmed.callbacks)} & {*map(id, trained.callbacks)}
    # The file is one for `fit` too.
    static = "--pruning.policy=StaticSubset --pruning.policy.indices=kept.txt --pruning.score=loss"
    main(["fit", *MADE.split(), *QUIET, *static.split()])


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("--method dul", "got 'dul'. Did you mean 'DUAL'"),
        ("--method DUAL --method.windw 3", "'windw' is not accepted by DUAL. Did you mean 'wind"),
        ("--method dual", "DUAL looks at 10 epochs at least; a shorter window needs fewer."),
        ("--method el2n --path there.npy", 'if_exists="use" skips the warm-up'),
        ("--method el2n --path kept.csv", "path to end in .npy or .txt, got 'kept.csv'"),
        ("--method el2n --pruning robust", "--pruning: there is no such option."),
        ("--method ssp --feature_layer net", "feature_layer to be a layer of the module"),
    ],
)
def test_coreset_refuses_with_one_line(line: str, text: str, capsys) -> None:
    jpeg_archive(Path("images.npz"), num_train=40)
    write_indices("there.npy", torch.arange(3))
    args = ["coreset", *MADE.split(), *QUIET, "--warmup_epochs=2", "--fraction=0.3", *line.split()]
    assert text in errors_of(args, capsys)[-1]


# ---- alignprune noise ---------------------------------------------------------------------------


def test_noise_makes_a_label_file_and_says_what_it_did(capsys: pytest.CaptureFixture[str]) -> None:
    jpeg_archive(Path("images.npz"), num_train=40)
    data = "--data CIFAR10DataModule --data.jpeg_archive images.npz"
    main(["noise", "--out=noisy.npz", "--kind=symmetric_uniform", "--rate=0.5", *data.split()])
    said = capsys.readouterr().out
    assert (
        "noisy.npz: 40 labels, 10 classes, symmetric_uniform at rate 0.5, seed 0: 20 wrong" in said
    )
    entries = read_label_file("noisy.npz")
    expected, _ = symmetric_uniform(torch.arange(40) % 10, 10, 0.5, 0)
    assert torch.equal(entries["clean_label"], torch.arange(40) % 10)
    assert torch.equal(entries["noisy_label"], expected)
    # From that file, the same again; and a data module reads it.
    main(
        [
            "noise",
            "--out",
            "again.pt",
            "--labels",
            "noisy.npz",
            "--kind",
            "pairflip",
            "--rate",
            "0.25",
            "--seed",
            "3",
        ]
    )
    assert "10 wrong (25.0000%)" in capsys.readouterr().out
    fit = f"fit {data} --data.noise.kind noisy --data.noise.file noisy.npz --data.split.val_size 4"
    main(
        [
            *fit.split(),
            "--data.split.reference_size=4",
            "--model.network=small_cnn",
            *QUIET,
            "--trainer.fast_dev_run=true",
        ]
    )


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("--out x.npz --rate 0.5", "expected labels or data and only one, got 'neither'"),
        ("--out there.npz --labels there.npz --rate 0", "expected out to be a new file"),
        ("--out x.npz --labels there.npz --rate 1.5", "expected rate in [0, 1], got 1.5"),
        ("--out x.npz --labels there.npz --rate 0 --entry y", "expected entry 'y' in there.npz"),
        ("--out x.npz --labels none.npz --rate 0", "no such file"),
        ("--out x.npz --labels there.npz --rate 0 --knd pairflip", "knd"),
        ("--out x.npz --labels there.npz", "rate"),
        ("--out x.npz --labels there.npz --rate 0 --kind pairflop", "pairflop"),
    ],
)
def test_noise_refuses_with_one_line(line: str, text: str, capsys) -> None:
    jpeg_archive(Path("images.npz"), num_train=10)
    main(
        [
            "noise",
            "--out",
            "there.npz",
            "--rate=0",
            "--data",
            "CIFAR10DataModule",
            "--data.jpeg_archive",
            "images.npz",
        ]
    )
    with pytest.raises(SystemExit) as stop:
        main(["noise", *line.split()])
    assert stop.value.code == 2
    assert text in capsys.readouterr().err


def test_without_jsonargparse_the_install_command_is_given(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "jsonargparse", None)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "lightning-alignprune\[cli\]"'):
        main(["fit"])
    with pytest.raises(ModuleNotFoundError, match=r"AlignPruneCLI: expected the package jsonarg"):
        AlignPruneCLI(TinyModule, TinyData, args=[])
