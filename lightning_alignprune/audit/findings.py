"""`Findings`: what a run has left behind, read from a callback's state or from a checkpoint."""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_alignprune.functional.label_audit import (
    Judgement,
    judge_by_comparison,
    judge_by_quality,
)
from lightning_alignprune.state.run_record import RunRecord


class Findings(NamedTuple):
    """What a run has found, whole, on the CPU.

    Legend: ``N`` samples, ``n`` reference samples.

    Attributes:
        made_by: Class names of the signal, the score and the policy.
        num_samples: N.
        record: What each epoch trained, how long that took, what was saved.
        rows: Recorded values by epoch, shape (N,) each; NaN where a sample was not seen.
        kept: Shape (N,), bool. Which samples the newest decision keeps.
        meaning: What the score says of labels, as ``Score.judges_labels``.
        noise: Estimated share of wrong labels and its standard error, or None.
        scores: Shape (N,), the newest scores, or None.
        quality: Shape (N,), how right the labels look by an averaged signal, or None.
        reference_scores: Shape (n,), the reference's own scores, or None.
        samples: State of the ``SampleRecord``, or None.
    """

    made_by: dict[str, str]
    num_samples: int
    record: RunRecord
    rows: dict[int, Tensor]
    kept: Tensor
    meaning: str | None
    noise: tuple[float, float] | None
    scores: Tensor | None
    quality: Tensor | None
    reference_scores: Tensor | None
    samples: dict[str, Any] | None

    @classmethod
    def of_state(cls, state: Mapping[str, Any]) -> "Findings":
        """Read the state of a ``DynamicPruningCallback``.

        Raises:
            ValueError: If a version wrote it that noted nothing for an audit.
        """
        if "findings" not in state:
            raise ValueError(
                "Findings: expected a checkpoint with notes for an audit, got one of an older "
                "version. Resume it and train an epoch or more."
            )
        here: dict[str, Any] = _on_cpu(dict(state))
        found, bank = here["findings"], here["trajectories"]
        record = RunRecord(bank["num_samples"])
        record.load_state_dict(here.get("record"))
        kept = here["kept"]
        return cls(
            made_by=here["made_by"],
            num_samples=bank["num_samples"],
            record=record,
            rows={e: row.float() for e, row in zip(bank["epochs"], bank["rows"], strict=True)},
            kept=torch.ones(bank["num_samples"], dtype=torch.bool) if kept is None else kept,
            meaning=found["meaning"],
            noise=found["noise"],
            scores=found["scores"],
            quality=found["quality"],
            reference_scores=found["reference_scores"],
            samples=found["samples"],
        )

    @property
    def losses(self) -> dict[int, Tensor]:
        """Plain losses at the epochs where they are known, shape (N,) each."""
        if self.samples is None:
            return self.rows if self.made_by["signal"] == "SampleLoss" else {}
        rows = zip(self.samples["epochs"], self.samples["losses"], strict=True)
        return {epoch: row.float() for epoch, row in rows}

    def judgement(self) -> Judgement | None:
        """Say what the score thinks of the given labels; None if it judges none or nothing yet."""
        if self.meaning == "average" and self.quality is not None:
            return judge_by_quality(self.quality, self.noise, self.noise is not None)
        if self.meaning == "probability" and self.scores is not None:
            return judge_by_quality(self.scores, self.noise, is_probability=True)
        if self.meaning == "comparison" and self.scores is not None:
            return judge_by_comparison(self.scores, self.reference_scores)
        return None


def read_checkpoint(path: str | Path, weights_only: bool = True) -> Findings:
    """Read what the pruning callback has left in a Lightning checkpoint.

    Args:
        path: The checkpoint.
        weights_only: Load tensors and plain values only, which runs no code of the file. Turn it
            off for a checkpoint of your own that holds other objects.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it cannot be loaded, or holds no state of the callback.
    """
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=weights_only)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        remedy = (
            "If the file is your own and holds other objects, load it with weights_only=False."
            if weights_only
            else "Is it a checkpoint?"
        )
        raise ValueError(
            f"read_checkpoint: expected a checkpoint in {path}, got {reason!r}. {remedy}"
        ) from None
    states = checkpoint.get("callbacks", {}) if isinstance(checkpoint, dict) else {}
    ours = [s for s in states.values() if isinstance(s, dict) and {"made_by", "kept"} <= s.keys()]
    if not ours:
        names = ", ".join(map(str, states)) or "none"
        raise ValueError(
            f"read_checkpoint: expected the state of a DynamicPruningCallback in {path}, got the "
            f"callbacks {names}. Give a checkpoint of a run that had one."
        )
    return Findings.of_state(ours[0])


def _on_cpu(state: Any) -> Any:
    if isinstance(state, Tensor):
        return state.detach().cpu()
    if isinstance(state, dict):
        return {key: _on_cpu(value) for key, value in state.items()}
    if isinstance(state, list):
        return [_on_cpu(value) for value in state]
    return state
