"""How well does the audit find wrong labels of digits, and what does taking notes cost?

    python examples/benchmarks/audit_digits.py --json docs/results/audit_digits.json
    python examples/benchmarks/audit_digits.py --report outputs/report.html  # a page, nothing else

1,000 digits, 200 clean ones beside them, six epochs of a small network that nothing is pruned for;
40 % of the labels wrong by one class, by any class, or none. Two minutes.
"""

import argparse
import json
import logging
import math
import statistics
import time
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from _table.quiet import quiet_trainer
from _table.report import NONE, pipes
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from tqdm import tqdm

from lightning_alignprune import (
    DynamicPruningCallback,
    InfoBatch,
    LabelOdds,
    LossTrajectories,
    PrunedSampler,
    PruningSchedule,
)
from lightning_alignprune.fit.step_recorder import StepRecorder
from lightning_alignprune.state.sample_record import SampleRecord

FIRST_SEED = 100  # the tests have those from 0 on
NOISES = {"by one class": (0.4, 2), "by any class": (0.4, 10), "none": (0.0, 10)}
"""Share of wrong labels, and below what the step to the wrong class is drawn."""
AUDITS: dict[str, dict[str, Any]] = {
    "LabelPosterior": {"score": "LabelPosterior", "signal": "LabelOdds"},
    "WrongEvents": {"score": "TimeAverage", "signal": "WrongEvents"},
}


class Net(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        layers = (nn.Flatten(), nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10))
        self.net = nn.Sequential(*layers)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        return F.cross_entropy(self.net(x), y)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


class Run(NamedTuple):
    """A run's callback, and what it does not know of its samples' labels."""

    callback: DynamicPruningCallback
    truth: Tensor
    is_wrong: Tensor


def trained(seed: int, noise: str, epochs: int, **settings: Any) -> Run:
    """Train once under a callback with these settings."""
    x, y = (torch.from_numpy(part) for part in load_digits(return_X_y=True))
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(y), generator=generator)
    x, y = x[order].float().view(-1, 1, 8, 8) / 16, y[order]
    rate, below = NOISES[noise]
    is_wrong = torch.rand(1000, generator=generator) < rate
    step = torch.randint(1, below, (1000,), generator=generator)
    truth = y[:1000]
    labels = torch.where(is_wrong, (truth + step) % 10, truth)
    pl.seed_everything(seed, verbose=False)
    clean = TensorDataset(x[1200:1400], y[1200:1400])
    callback = DynamicPruningCallback(reference=clean, **settings)
    trainer = quiet_trainer(epochs, [callback])
    trainer.fit(Net(), DataLoader(TensorDataset(x[:1000], labels), 64, shuffle=True))
    return Run(callback, truth, is_wrong)


def audited(seed: int, noise: str, settings: dict[str, Any]) -> dict[str, float | None]:
    """Train once with one audit, and compare its issues with the truth."""
    callback, truth, is_wrong = trained(seed, noise, 6, policy=InfoBatch(0.0), **settings)
    rate = NOISES[noise][0]
    issues = callback.label_issues()
    is_issue = torch.from_numpy(issues.is_issue)
    found = is_issue & is_wrong
    suggested = torch.from_numpy(issues.pred_probs()).argmax(1)
    return {
        "issues": is_issue.float().mean().item(),
        "off_by": abs(issues.noise_share - is_wrong.float().mean().item()),
        "auroc": roc_auc_score(~is_wrong, issues.label_quality) if rate else None,
        "precision": is_wrong[is_issue].float().mean().item() if rate else None,
        "recall": is_issue[is_wrong].float().mean().item() if rate else None,
        "suggested": (suggested == truth)[found].float().mean().item() if rate else None,
    }


def bytes_a_sample() -> dict[str, float]:
    """Bytes that a run keeps for the audit, and its checkpoint has, once they are most."""
    run = trained(FIRST_SEED, "none", 9, policy=InfoBatch(0.0), **AUDITS["WrongEvents"])
    findings = run.callback.state_dict()["findings"]
    return {
        "run": _num_bytes(findings["samples"]) / len(run.truth),
        "checkpoint": _num_bytes(findings) / len(run.truth),
    }


def _num_bytes(state: Any) -> int:
    """Bytes of the tensors in nested dicts and lists."""
    if isinstance(state, Tensor):
        return state.nbytes
    parts = state.values() if isinstance(state, dict) else state if isinstance(state, list) else ()
    return sum(map(_num_bytes, parts))


def report(path: Path) -> None:
    """Write the page of a run that cuts what it finds."""
    settings = {**AUDITS["LabelPosterior"], "policy": "PosteriorCut"}
    schedule = PruningSchedule(2, finish="selected")
    run = trained(FIRST_SEED, "by one class", 16, schedule=schedule, **settings)
    path.parent.mkdir(parents=True, exist_ok=True)
    run.callback.report(path)


def step_milliseconds(repeats: int = 2000) -> dict[str, float]:
    """Milliseconds that recording adds to a step on 128 samples of 10 classes, medians in turn."""
    net, num_samples = Net(), 50_000
    batch = (torch.randn(128, 64), torch.randint(10, (128,)))
    sampler = PrunedSampler(num_samples, batch_size=128)
    bank, record = LossTrajectories(num_samples), SampleRecord(num_samples)
    plain, noted = (StepRecorder(LabelOdds(), module=net) for _ in range(2))
    noted.takes_notes = True
    seconds: dict[str, list[float]] = {"step": [], "recorded": [], "with notes": []}
    for step in range(repeats):
        started = time.perf_counter()
        net.training_step(batch, step)
        seconds["step"].append(time.perf_counter() - started)
        for name, recorder in (("recorded", plain), ("with notes", noted)):
            started = time.perf_counter()
            recorder.arm(sampler, step % (num_samples // 128), None, bank.device)
            recorder.run(net.training_step, batch, step)
            collected = recorder.collect()
            assert collected is not None
            bank.record(collected.indices, collected.values)
            if collected.notes is not None:
                record.note(collected.indices, collected.notes)
            seconds[name].append(time.perf_counter() - started)
    medians = {name: 1e3 * statistics.median(values) for name, values in seconds.items()}
    return {name: medians[name] - medians["step"] for name in ("recorded", "with notes")}


COLUMNS = {
    "auroc": ("AUROC", 3),
    "precision": ("precision", 2),
    "recall": ("recall", 2),
    "suggested": ("right suggestions", 2),
    "off_by": ("estimated share, off by", 3),
    "issues": ("issues, share of all", 3),
}


def table(results: list[dict[str, Any]]) -> str:
    """One row an audit and noise: means over the seeds."""
    rows = [("audit", "wrong labels", *(title for title, _ in COLUMNS.values()))]
    for audit in AUDITS:
        for noise in NOISES:
            runs = [run for run in results if (run["audit"], run["noise"]) == (audit, noise)]
            rows.append((audit, noise, *(_mean(runs, key) for key in COLUMNS)))
    return pipes(rows)


def _mean(runs: list[dict[str, Any]], key: str) -> str:
    known = [run[key] for run in runs if run[key] is not None and not math.isnan(run[key])]
    return f"{statistics.fmean(known):.{COLUMNS[key][1]}f}" if known else NONE


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, help="write every run's numbers here")
    parser.add_argument("--seeds", type=int, default=8, help="number of seeds")
    parser.add_argument("--report", type=Path, help="write the page of one run here instead")
    args = parser.parse_args()
    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    if args.report:
        report(args.report)
        return
    cells = [
        (a, n, FIRST_SEED + seed) for a in AUDITS for n in NOISES for seed in range(args.seeds)
    ]
    runs = [
        {"audit": name, "noise": noise, "seed": seed, **audited(seed, noise, AUDITS[name])}
        for name, noise, seed in tqdm(cells, unit="run")
    ]
    cost = {"step_milliseconds": step_milliseconds(), "bytes_a_sample": bytes_a_sample()}
    print(table(runs))
    print(f"Milliseconds added to a step of 128 samples: {cost['step_milliseconds']}")
    print(f"Bytes a sample: {cost['bytes_a_sample']}")
    if args.json:
        args.json.write_text(json.dumps({**cost, "runs": runs}, indent=1))


if __name__ == "__main__":
    main()
