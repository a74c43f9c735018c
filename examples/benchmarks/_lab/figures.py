"""Draw what the lab found on one recording."""

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

COLOURS = {
    "last loss": ("0.7", ":"),
    "mean loss": ("0.4", "-"),
    "DAS, window 10": ("tab:orange", ":"),
    "DAS, all": ("tab:orange", "-"),
    "mean calibrated loss": ("tab:cyan", "-"),
    "reference rank, gated": ("tab:cyan", "--"),
    "wrong events": ("tab:brown", "-"),
    "margin": ("tab:green", ":"),
    "class-debiased margin": ("tab:green", "-"),
    "calibrated margin": ("tab:blue", "-"),
    "label posterior": ("tab:red", "-"),
    "label posterior, decay 0.8": ("tab:red", "--"),
}


def draw(found: dict[str, Any], path: Path) -> None:
    """AUROC of each score, estimated against true noise, and what each cut takes and leaves."""
    has_noise = found["true_share"] > 0
    widths = [6.2, 4.2, 5.6] if has_noise else [4.2, 5.6]
    figure, axes = plt.subplots(
        1, len(widths), figsize=(sum(widths), 4.8), width_ratios=widths, layout="constrained"
    )
    left = list(axes)
    epochs = [entry["epoch"] + 1 for entry in found["epochs"]]
    if has_noise:
        _draw_scores(left.pop(0), epochs, found)
    _draw_shares(left[0], epochs, found)
    _draw_cuts(left[1], found)
    figure.suptitle(found["name"])
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _draw_scores(axis: Any, epochs: list[int], found: dict[str, Any]) -> None:
    last = found["epochs"][-1]["auroc"]
    for name in sorted(COLOURS, key=lambda name: -(last[name] or 0)):
        colour, style = COLOURS[name]
        values = [_number(entry["auroc"][name]) for entry in found["epochs"]]
        axis.plot(epochs, values, color=colour, linestyle=style, label=name)
    axis.set(ylim=(0.48, 1.01), xlabel="epochs", ylabel="AUROC")
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.set_title("Right against wrong labels")
    axis.legend(fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))


def _draw_shares(axis: Any, epochs: list[int], found: dict[str, Any]) -> None:
    every = found["epochs"]
    newest = [_number(entry["noise_share"][1]) for entry in every]
    in_use = [_number(entry["noise_share"][0]) for entry in every]
    axis.plot(epochs, [entry["accuracy"] for entry in every], "tab:blue", label="test accuracy")
    axis.plot(epochs, newest, "tab:red", marker=".", label="estimated share of wrong labels")
    axis.plot(epochs, in_use, "tab:red", linestyle="--", label="the estimate in use")
    axis.axhline(found["true_share"], color="k", linewidth=0.8, label="true share")
    axis.set(ylim=(-0.02, 1.3), yticks=[0, 0.2, 0.4, 0.6, 0.8, 1.0], xlabel="epochs")
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.set_title("Noise share and accuracy")
    axis.legend(fontsize=8, frameon=False, loc="upper right")


def _draw_cuts(axis: Any, found: dict[str, Any]) -> None:
    at = found["cuts"][-1]
    names = list(at["rules"])[::-1]
    for place, name in enumerate(names):
        cut = at["rules"][name]
        axis.plot(_number(cut["wrong_in_kept"]), place, "o", color="tab:red", markersize=5)
        axis.plot(1 - _number(cut["right_kept"]), place, "s", color="tab:blue", markersize=5)
    axis.plot([], [], "o", color="tab:red", label="wrong among the kept")
    axis.plot([], [], "s", color="tab:blue", label="right labels cut")
    axis.axvline(found["true_share"], color="k", linewidth=0.8)
    axis.set_yticks(range(len(names)), names, fontsize=7)
    axis.set(xlim=(-0.02, 1.02), title=f"Cuts after {at['epoch'] + 1} epochs: left is good")
    axis.grid(axis="y", linewidth=0.3)
    axis.legend(fontsize=8, frameon=False, loc="center right")


def _number(value: float | None) -> float:
    return float("nan") if value is None else value
