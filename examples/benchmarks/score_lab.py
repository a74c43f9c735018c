r"""Compare every score and every cut on one full training, in seconds.

    python examples/benchmarks/score_lab.py --task digits --noise pairflip --rate 0.4
    python examples/benchmarks/score_lab.py --task news --data DATA --noise symmetric --rate 0.5
    python examples/benchmarks/score_lab.py --recording my_run.pt

The run is trained once without pruning and its logits are kept, 2 bytes each; then the package's
own signals and scores are fed with them. What a cut does to the training that follows is not seen
here: it tells which scores and cuts are worth a run. For data of your own, save a `Recording` (see
`_lab/recording.py`) whose true labels you know, for instance by adding noise to clean ones.

Prints the AUROC of each score per epoch, and what each cut takes and leaves after the fourth epoch,
in the middle and at the end; writes a figure and JSON.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from _lab.figures import draw
from _lab.recording import NOISES, Plan, Recording, digits, news, record, separable
from _lab.replay import SCORES, Moment, auroc, cuts, judged, moments

EPOCHS = {"digits": 30, "separable": 20, "news": 30}
REFERENCE = {"digits": 300, "separable": 200, "news": 1000}


def compare(recording: Recording) -> dict[str, Any]:
    """Judge every score after every epoch, and every cut at three of them."""
    started, is_wrong = time.perf_counter(), recording.is_wrong
    epochs: list[dict[str, Any]] = []
    kept: list[Moment] = []
    last = len(recording.logits) - 1
    for moment in moments(recording):
        epochs.append(
            {
                "epoch": moment.epoch,
                "accuracy": float(recording.accuracies[moment.epoch]),
                "noise_share": moment.noise_share,
                "reference_loss": moment.reference_loss,
                "auroc": {name: auroc(s, ~is_wrong) for name, s in moment.scores.items()},
            }
        )
        if moment.epoch in (3, last // 2, last):
            kept.append(moment)
    return {
        "name": recording.name,
        "num_samples": len(recording.given),
        "num_reference": len(recording.reference_labels),
        "true_share": float(is_wrong.float().mean()),
        "seconds": time.perf_counter() - started,
        "epochs": epochs,
        "cuts": [{"epoch": moment.epoch, "rules": _rules(moment, is_wrong)} for moment in kept],
    }


def _rules(moment: Moment, is_wrong: torch.Tensor) -> dict[str, dict[str, float | None]]:
    return {
        name: {**judged(cut, is_wrong), "estimated_share": share}
        for name, (cut, share) in cuts(moment).items()
    }


def tables(found: dict[str, Any]) -> str:
    """Format what was found for an 120-column terminal."""
    every = found["epochs"]
    shown = [e for e in every if e["epoch"] in (1, 2, 3, 4, 6, 9, 14, 19, 29, 59)]
    shown = [*shown, *([] if every[-1] in shown else every[-1:])]
    lines = [
        f"{found['name']}: {found['num_samples']:,} samples, {found['num_reference']:,} clean, "
        f"{found['true_share']:.1%} wrong; compared in {found['seconds']:.1f} s",
        _line("epochs", [str(e["epoch"] + 1) for e in shown]),
        _line("test accuracy", [f"{e['accuracy']:.3f}" for e in shown]),
        _line("share of wrong labels, newest", [_cell(e["noise_share"][1]) for e in shown]),
        _line("share of wrong labels, in use", [_cell(e["noise_share"][0]) for e in shown]),
        _line("reference loss, calibrated", [f"{e['reference_loss'][1]:.3f}" for e in shown]),
    ]
    if found["true_share"] > 0:
        lines.append("AUROC of right against wrong labels")
        names = [name for _, scores in SCORES.values() for name in scores]
        lines += [_line(f"  {n}", [_cell(e["auroc"][n]) for e in shown]) for n in names]
    columns = ("cut", "wrong_in_cut", "wrong_found", "wrong_in_kept", "right_kept")
    for at in found["cuts"]:
        lines += ["", _line(f"cuts after {at['epoch'] + 1} epochs", [c[:9] for c in columns], 52)]
        for name, values in at["rules"].items():
            cells = [_cell(values[column]) for column in columns]
            lines.append(_line(f"  {name}", cells, 52))
    return "\n".join(lines)


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _line(title: str, cells: list[str], width: int = 32) -> str:
    return f"{title:<{width}}" + " ".join(f"{cell:>9}" for cell in cells)


def recorded(args: argparse.Namespace) -> Recording:
    plan = Plan(args.epochs or EPOCHS[args.task], args.noise, args.rate, args.seed)
    size = args.reference or REFERENCE[args.task]
    if args.task == "news":
        data = news(args.data, args.seed, size)
    else:
        data = (digits if args.task == "digits" else separable)(args.seed, size)
    return record(args.task, data, plan)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--task", choices=sorted(EPOCHS), default="digits")
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of 20 Newsgroups")
    parser.add_argument("--noise", choices=["none", *NOISES], default="none")
    parser.add_argument("--rate", type=float, default=0.4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, help="epochs of the run")
    parser.add_argument("--reference", type=int, help="size of the clean reference")
    parser.add_argument("--recording", type=Path, help="compare on this file; else train and keep")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("outputs/lab"))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.recording is not None and args.recording.exists():
        recording = Recording.read(args.recording)
    else:
        recording = recorded(args)
        if args.recording is not None:
            recording.save(args.recording)
    found = compare(recording)
    print(tables(found))
    stem = recording.name.replace(", ", "_").replace(" ", "_")
    draw(found, args.out / f"{stem}.png")
    (args.out / f"{stem}.json").write_text(json.dumps(found, indent=1) + "\n")
    print(f"\nFigure and numbers: {args.out / stem}.png, .json")


if __name__ == "__main__":
    main()
