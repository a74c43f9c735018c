r"""Which labels are wrong? The audit of one run beside cleanlab on cross-validated predictions.

    pip install cleanlab  # AGPL; needed by this comparison alone
    python examples/benchmarks/audit_against_cleanlab.py --data <folder>

Same network, same epochs, one thread. The audit is one training that prunes nothing. cleanlab gets
the predictions of five trainings, each asked about the fifth that it has not seen, and its
`find_label_issues` and `get_label_quality_scores` with their defaults. It needs no clean sample; in
a row of its own it has the audit's clean samples among the training samples of each part.

Writes outputs/audit_against_cleanlab.json and prints the tables of docs/audit.md. An hour or more
on one core, a quarter of it for the texts.
"""

import argparse
import dataclasses
import json
import logging
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import lightning.pytorch as pl
import torch
from _table.cleanlab_report import tables
from _table.quiet import quiet_trainer
from _table.tasks import CIFAR10N, NEWS, Batches, Parts, Recipe, Task, parts_of, unchanged
from _table.training import new_module, versions
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from lightning_alignprune import DynamicPruningCallback, InfoBatch
from lightning_alignprune.models import Classifier

NUM_FOLDS = 5
FEW = 200


class Plan(NamedTuple):
    """A task, how long it trains, and the noises it is judged at."""

    task: Task
    changes: dict[str, Any]
    noises: tuple[str, ...]
    num_seeds: int


# As many epochs as full training takes to its best reference loss, about: longer training harms
# cross-validated predictions most.
PLANS = {
    "news": Plan(
        NEWS,
        {"epochs": 20, "learning_rate": 0.01, "precision": "32-true"},
        ("symmetric 0.2", "symmetric 0.5", "pairflip 0.45", "clean"),
        3,
    ),
    "cifar10n": Plan(
        CIFAR10N,
        {"epochs": 15, "train_size": 4000, "precision": "32-true"},
        ("worse",),
        3,
    ),
}


class Verdict(NamedTuple):
    """What is said of the labels: ``is_issue`` (N,), bool; ``quality`` (N,), high = right."""

    is_issue: Tensor
    quality: Tensor


class Work(NamedTuple):
    """What a method is given."""

    task: Task
    recipe: Recipe
    parts: Parts
    seed: int


def fit(work: Work, data: Batches, callbacks: list[pl.Callback]) -> tuple[pl.Trainer, Classifier]:
    """Train a new network on ``data``, the same way for every row."""
    module = new_module(work.task, work.recipe, work.seed)
    trainer = quiet_trainer(
        work.recipe.epochs, callbacks, precision=work.recipe.precision, limit_val_batches=0
    )
    size = work.recipe.batch_size
    trainer.fit(module, DataLoader(data, size, shuffle=True, collate_fn=unchanged))
    return trainer, module


def audit(work: Work, **settings: Any) -> Verdict:
    """Train once on everything and ask the callback."""
    callback = DynamicPruningCallback(policy=InfoBatch(prune_probability=0.0), **settings)
    fit(work, work.parts.train, [callback])
    issues = callback.label_issues()
    return Verdict(torch.from_numpy(issues.is_issue), torch.from_numpy(issues.label_quality))


def audit_with_clean(work: Work, most: int | None = None) -> Verdict:
    """Audit with the task's clean samples, or the first of them."""
    held_out = work.parts.reference
    clean = Batches(held_out.inputs[:most], held_out.labels[:most], held_out.transform)
    loader = DataLoader(clean, batch_size=len(clean), collate_fn=unchanged)
    return audit(work, score="LabelPosterior", signal="LabelOdds", reference=loader)


def audit_without_clean(work: Work) -> Verdict:
    return audit(work, score="TimeAverage", signal="WrongEvents")


def cross_validated(work: Work, also: Batches | None) -> Tensor:
    """Return each sample's class probabilities by a network that was not trained on it, (N, C).

    Args:
        work: What to train on what.
        also: Further samples that each training has.
    """
    data = work.parts.train
    folds = StratifiedKFold(NUM_FOLDS, shuffle=True, random_state=work.seed)
    probabilities = torch.empty(len(data), work.task.num_classes)
    for rest, held_out in folds.split(data.labels, data.labels):
        inputs, labels = data.inputs[rest], data.labels[rest]
        if also is not None:
            inputs = torch.cat([inputs, also.inputs])
            labels = torch.cat([labels, also.labels])
        trainer, module = fit(work, Batches(inputs, labels, data.transform), [])
        module.eval()
        with torch.no_grad(), trainer.precision_plugin.forward_context():
            for rows in torch.from_numpy(held_out).split(2048):
                asked, _ = data.__getitems__(rows)  # type: ignore[arg-type]
                probabilities[rows] = module(asked).float().softmax(1)
    return probabilities


def cleanlab(work: Work, also: Batches | None = None) -> Verdict:
    """Ask cleanlab, with its defaults but for the number of processes."""
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores

    given = work.parts.train.labels.numpy()
    probabilities = cross_validated(work, also).numpy()
    is_issue = find_label_issues(given, probabilities, n_jobs=1)
    quality = get_label_quality_scores(given, probabilities)
    return Verdict(torch.from_numpy(is_issue), torch.from_numpy(quality))


def cleanlab_with_clean(work: Work) -> Verdict:
    return cleanlab(work, work.parts.reference)


METHODS: dict[str, Callable[[Work], Verdict]] = {
    "audit": audit_with_clean,
    "audit_few": lambda work: audit_with_clean(work, FEW),
    "audit_without": audit_without_clean,
    "cleanlab": cleanlab,
    "cleanlab_with": cleanlab_with_clean,
}


def measured(verdict: Verdict, is_wrong: Tensor) -> dict[str, float | None]:
    """Compare what is said with the truth; None where there is nothing to divide by."""
    found = verdict.is_issue & is_wrong
    has_wrong, has_issues = bool(is_wrong.any()), bool(verdict.is_issue.any())
    quality = verdict.quality.nan_to_num(1.0)
    return {
        "precision": found.sum().item() / verdict.is_issue.sum().item() if has_issues else None,
        "recall": found.sum().item() / is_wrong.sum().item() if has_wrong else None,
        "auroc": float(roc_auc_score(~is_wrong, quality)) if has_wrong else None,
        "issues": verdict.is_issue.float().mean().item(),
        "right_called_issue": verdict.is_issue[~is_wrong].float().mean().item(),
    }


def run(work: Work, method: str) -> dict[str, Any]:
    """Judge the labels of one task and measure the answer and the time."""
    wall, cpu = time.perf_counter(), time.process_time()
    verdict = METHODS[method](work)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {
        "wall_seconds": round(wall, 2),
        "cpu_seconds": round(cpu, 2),
        "noise_rate": work.parts.is_wrong.float().mean().item(),
        "num_samples": len(work.parts.train),
        "num_clean": len(work.parts.reference),
        "few": FEW,
        **measured(verdict, work.parts.is_wrong),
    }


def compare(plan: Plan, recipe: Recipe, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Run all methods on one task."""
    task, results = plan.task, []
    pool = task.pool(args.data, args.out)
    noises = [noise for noise in args.noises or plan.noises if noise in task.noises]
    cells = [(noise, seed) for noise in noises for seed in range(args.seeds or plan.num_seeds)]
    with tqdm(total=len(cells) * len(METHODS), unit="run") as bar:
        for noise, seed in cells:
            parts = parts_of(task, pool, recipe, task.noises[noise](seed, args.data), seed)
            for method in METHODS:
                bar.set_description(f"{task.name}, {noise}, seed {seed}, {method}")
                config = {"table": task.name, "noise": noise, "method": method, "seed": seed}
                found = run(Work(task, recipe, parts, seed), method)
                results.append(
                    {"config": {**config, "recipe": dataclasses.asdict(recipe)}, **found}
                )
                bar.update()
    return results


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets' files")
    parser.add_argument("--out", type=Path, default=Path("outputs"), help="folder of the results")
    parser.add_argument("--tasks", nargs="+", choices=PLANS, default=list(PLANS))
    parser.add_argument("--noises", nargs="+", help="some of the task's, instead of the plan's")
    parser.add_argument("--seeds", type=int, help="how many, instead of the plan's")
    parser.add_argument("--epochs", type=int, help="instead of the plan's")
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    warnings.filterwarnings("ignore", ".*LeafSpec.*")
    warnings.filterwarnings("ignore", ".*GPU available but not used.*")
    args.out.mkdir(parents=True, exist_ok=True)
    results: list[dict[str, Any]] = []
    path = args.out / "audit_against_cleanlab.json"
    used = {**versions(), "cleanlab": version("cleanlab")}
    for name in args.tasks:
        recipe = dataclasses.replace(PLANS[name].task.recipe, **PLANS[name].changes)
        if args.epochs:
            recipe = dataclasses.replace(recipe, epochs=args.epochs)
        results += compare(PLANS[name], recipe, args)
        path.write_text(json.dumps({"versions": used, "runs": results}, indent=1))
    print(tables(results))
    print(path)


if __name__ == "__main__":
    main()
