r"""Run a table: methods x noises x seeds, each a real training run, and print it.

    python examples/benchmarks/run_table.py news --data <folder> --out runs/news
    python examples/benchmarks/run_table.py news --data <folder> --out runs/news \
        --choose-lr 0.01 0.03
    python examples/benchmarks/run_table.py news --data <folder> --out runs/compared \
        --fractions 0.3 0.5 0.7

Each run leaves one JSON in --out; a run whose JSON is there is not repeated, so the grid can be
stopped at any moment and started again. `--jsonl` and `--markdown` write the results for a page.
`--fractions` compares every method at equal shares of pruned passes; one that decides itself how
much it prunes trains fewer epochs for it.
"""

import argparse
import dataclasses
import json
import logging
import warnings
from pathlib import Path
from typing import Any, get_args

import torch
from _table.method import Run
from _table.methods import ALL_METHODS, COMPARISON, METHODS
from _table.report import markdown, text
from _table.tasks import TASKS, Pool, Recipe, Task, parts_of
from _table.training import train
from tqdm import tqdm

from lightning_alignprune.models.optimisation import ScheduleName


def grid(
    noises: list[str], methods: list[str], seeds: list[int], fractions: list[float]
) -> list[Run]:
    """List the runs: noise by noise, and seed by seed within one, so that rows grow together.

    A row that cannot be told how much to prune is there once, whatever the fractions.
    """
    return [
        Run(noise, method, seed, pruned)
        for noise in noises
        for seed in seeds
        for method in methods
        for pruned in (fractions if ALL_METHODS[method].can_prune and fractions else [None])
        # Without wrong labels the oracle is full training.
        if not (noise == "clean" and method == "oracle")
    ]


def path_of(out: Path, run: Run) -> Path:
    share = "" if run.pruned is None else f"_pruned{run.pruned:g}"
    return out / f"{run.noise.replace(' ', '-')}_{run.method}{share}_seed{run.seed}.json"


def config_of(task: Task, recipe: Recipe, run: Run) -> dict[str, Any]:
    config = {"table": task.name, **run._asdict(), "recipe": dataclasses.asdict(recipe)}
    if run.pruned is None:
        del config["pruned"]
    return config


def finished(out: Path, config: dict[str, Any], run: Run) -> dict[str, Any] | None:
    """Return the result of a run that was done before.

    Raises:
        SystemExit: If it was done with other settings.
    """
    path = path_of(out, run)
    if not path.is_file():
        return None
    result: dict[str, Any] = json.loads(path.read_text())
    if result["config"] != config:
        raise SystemExit(
            f"{path}: expected a run with {config}, got one with {result['config']}. Results of "
            "different settings do not make one table: choose another --out."
        )
    return result


def write(path: Path, content: str) -> None:
    """Write at once or not at all: a stopped write must not be taken for a result."""
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(content)
    unfinished.replace(path)


def run_grid(
    task: Task, recipe: Recipe, pool: Pool, runs: list[Run], data_dir: Path, out: Path
) -> list[dict[str, Any]]:
    """Do the runs that are not there yet.

    Returns:
        The results of all ``runs``, in their order.
    """
    results = {run: finished(out, config_of(task, recipe, run), run) for run in runs}
    missing = [run for run, result in results.items() if result is None]
    total = sum(ALL_METHODS[run.method].epochs(recipe.epochs, run.pruned) for run in missing)
    with tqdm(total=total, unit="epoch", disable=not missing) as bar:
        for number, run in enumerate(missing, 1):
            noise, method, seed, _ = run
            bar.set_description(f"{number}/{len(missing)} {method}, {noise}, seed {seed}")
            parts = parts_of(task, pool, recipe, task.noises[noise](seed, data_dir), seed)
            measured = train(task, recipe, parts, run, bar)
            results[run] = {"config": config_of(task, recipe, run), **measured}
            write(path_of(out, run), json.dumps(results[run], indent=1))
    return [result for result in results.values() if result is not None]


def choose_learning_rate(
    task: Task, recipe: Recipe, pool: Pool, rates: list[float], data_dir: Path, out: Path
) -> str:
    """Compare rates by the lowest reference loss of full training; test accuracy is not looked at.

    Returns:
        A table, best rate first.
    """
    seed, noise = task.tuning
    losses: dict[float, tuple[float, int]] = {}
    for rate in rates:
        tried = dataclasses.replace(recipe, learning_rate=rate)
        folder = out / f"learning_rate_{rate:g}"
        folder.mkdir(exist_ok=True)
        result = run_grid(task, tried, pool, [Run(noise, "full", seed)], data_dir, folder)[0]
        losses[rate] = result["best_reference_loss"], result["best_reference_epoch"]
    lines = [f"Full training, {noise}, seed {seed}: lowest reference loss (0-based epoch)"]
    for rate, (loss, epoch) in sorted(losses.items(), key=lambda item: item[1]):
        lines.append(f"{rate:8g}  {loss:.4f}  ({epoch})")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("table", choices=TASKS, help="which table")
    parser.add_argument("--data", type=Path, required=True, help="folder of the data set's files")
    parser.add_argument("--out", type=Path, required=True, help="folder of the JSONs and features")
    parser.add_argument(
        "--methods",
        nargs="+",
        choices=ALL_METHODS,
        metavar="METHOD",
        help=f"rows of the table, in this order; all there are: {', '.join(ALL_METHODS)}",
    )
    parser.add_argument(
        "--fractions",
        nargs="+",
        type=float,
        default=[],
        metavar="PRUNED",
        help="shares of the passes that are pruned, as in the paper's tables; 0.3 keeps 70 %%",
    )
    parser.add_argument("--noises", nargs="+", help="noises of the table, in this order")
    parser.add_argument("--seeds", nargs="+", type=int, default=list(range(5)))
    parser.add_argument("--epochs", type=int, help="instead of the table's own")
    parser.add_argument("--batch-size", type=int, help="instead of the table's own")
    parser.add_argument("--lr", type=float, help="instead of the table's own")
    parser.add_argument("--schedule", choices=get_args(ScheduleName), help="of the learning rate")
    parser.add_argument("--reference-size", type=int, help="instead of the table's own")
    parser.add_argument("--train-size", type=int, help="how many samples are drawn for training")
    parser.add_argument("--precision", help="the Trainer's; bf16 is slow on some processors")
    parser.add_argument("--choose-lr", nargs="+", type=float, help="only compare learning rates")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    parser.add_argument("--jsonl", type=Path, help="write all results into this one file")
    parser.add_argument("--markdown", type=Path, help="write the table here")
    args = parser.parse_args(arguments)
    task = TASKS[args.table]
    unknown = sorted(set(args.noises or []) - set(task.noises))
    if unknown:
        parser.error(f"--noises: expected some of {', '.join(task.noises)}, got {unknown[0]!r}.")
    if not all(0 < fraction < 1 for fraction in args.fractions):
        parser.error(f"--fractions: expected shares between 0 and 1, got {args.fractions}.")
    given = {
        "epochs": args.epochs,
        "batch_size": args.batch_size,
        "learning_rate": args.lr,
        "reference_size": args.reference_size,
        "train_size": args.train_size,
        "schedule": args.schedule,
        "precision": args.precision,
    }
    recipe = dataclasses.replace(
        task.recipe, **{name: value for name, value in given.items() if value is not None}
    )
    torch.set_num_threads(args.threads)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    warnings.filterwarnings("ignore", ".*LeafSpec.*")
    warnings.filterwarnings("ignore", ".*GPU available but not used.*")
    args.out.mkdir(parents=True, exist_ok=True)
    pool = task.pool(args.data, args.out)
    if args.choose_lr:
        print(choose_learning_rate(task, recipe, pool, args.choose_lr, args.data, args.out))
        return
    methods = args.methods or list(COMPARISON if args.fractions else METHODS)
    runs = grid(args.noises or list(task.noises), methods, args.seeds, args.fractions)
    results = run_grid(task, recipe, pool, runs, args.data, args.out)
    print(text(task, results))
    if args.jsonl:
        write(args.jsonl, "".join(json.dumps(result) + "\n" for result in results))
    if args.markdown:
        write(args.markdown, markdown(task, results))


if __name__ == "__main__":
    main()
