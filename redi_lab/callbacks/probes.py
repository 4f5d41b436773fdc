"""probe/…: a few sequences that are not trained on, scored again and again.

Between two measurements nothing differs but the weights, so these curves are smooth where train/ is noisy, and the
first to show that a policy unlearns what nobody shows it. Some of them compare with the measurement before training.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, final

import pytorch_lightning as pl
import torch
from torch import Tensor

from redi_lab.backbone.causal_lm import CausalLM
from redi_lab.callbacks.measuring import Measurement
from redi_lab.data.packing import make_batch
from redi_lab.data.tokenization import TokenizedSequence
from redi_lab.files import write_text
from redi_lab.losses.logps import token_logps
from redi_lab.losses.sequences import sum_by_sequence

PROBES_FILE = "probes.json"
"""In a run's folder: mean log-prob of every chosen and rejected probe, before training and at the last measurement."""


class ProbeScores(NamedTuple):
    """What the policy says about n chosen and m rejected sequences. P are the chosen tokens."""

    chosen_mean_logps: Tensor
    """(n,) nats per token."""
    rejected_mean_logps: Tensor
    """(m,) nats per token."""
    token_logps: Tensor
    """(P,) log-probs of the chosen tokens, sequence by sequence."""
    min_token_logps: Tensor
    """(n,) the lowest among each chosen sequence's tokens."""
    entropy: Tensor
    """(P,) of the distributions at the chosen tokens, in nats."""
    end_logps: Tensor
    """(n,) log-prob of the end-of-turn token where a chosen sequence ends."""
    rejected_entropy: Tensor = torch.zeros(0)
    """(R,) of the distributions at the rejected tokens, in nats; none in states of runs that began before it was."""


@final
class Probes(Measurement):
    """Logs `probe_metrics` as `probe/NAME`. Every rank measures the same.

    Args:
        probes: chosen and, where there are any, rejected sequences.
        token_budget: most tokens of one forward pass.
        every_n_steps: optimizer steps between two measurements.
        folder: of the run, where `PROBES_FILE` is kept; None: nowhere.

    Raises:
        ValueError: no probe is chosen.
    """

    def __init__(
        self, probes: Sequence[TokenizedSequence], token_budget: int, every_n_steps: int, folder: Path | None = None
    ) -> None:
        super().__init__(every_n_steps)
        if not any(probe.is_chosen for probe in probes):
            raise ValueError("Probes: none of the sequences is a chosen one")
        self._probes = list(probes)
        self._token_budget = max(token_budget, *(len(probe.input_ids) for probe in probes))
        self._folder = folder
        self._start: ProbeScores | None = None

    def state_dict(self) -> dict[str, Any]:
        """The measurement before training, which a resumed run must compare with."""
        return {} if self._start is None else self._start._asdict()

    def load_state_dict(self, state_dict: dict[str, Tensor]) -> None:
        """Take over the measurement before training."""
        self._start = ProbeScores(**state_dict) if state_dict else None

    def measure(self, trainer: pl.Trainer, policy: CausalLM) -> Mapping[str, float]:
        """Score the probes and compare with the first time."""
        scores = score_probes(policy, self._probes, self._token_budget)
        if self._start is None:
            self._start = scores
        start = ProbeScores(*(value.to(policy.device) for value in self._start))
        if self._folder is not None and trainer.is_global_zero:
            sides = ("chosen", "rejected")
            moments = {
                name: {side: getattr(at, f"{side}_mean_logps").tolist() for side in sides}
                for name, at in (("start", start), ("now", scores))
            }
            write_text(self._folder / PROBES_FILE, json.dumps(moments) + "\n")
        return {f"probe/{name}": value for name, value in probe_metrics(scores, start).items()}


@torch.no_grad()
def score_probes(backbone: CausalLM, probes: Sequence[TokenizedSequence], token_budget: int) -> ProbeScores:
    """Score sequences; at least one of them is chosen.

    Args:
        backbone: the policy, in evaluation mode.
        probes: sequences of at most `token_budget` tokens each.
        token_budget: most tokens of one forward pass.
    """
    device = backbone.device
    batch = make_batch([(probe,) for probe in probes], token_budget=token_budget, split_examples=True)
    lengths, is_chosen = batch.num_tokens_of.to(device), batch.is_chosen.to(device)
    rows = []
    for micro in (micro.to(device) for micro in batch.micro_batches):
        found = backbone(micro, partial(token_logps, with_entropy=True))
        rows.append((micro.sequence_index, found.logps, found.entropy))
    owners, logps, entropy = (torch.cat(columns) for columns in zip(*rows, strict=True))
    order = torch.argsort(owners, stable=True)  # packing moves sequences, never tokens within one
    owners, logps, entropy = owners[order], logps[order], entropy[order]
    mean_logps = sum_by_sequence(logps, owners, len(lengths)) / lengths
    ends, of_chosen = lengths.long().cumsum(0) - 1, is_chosen[owners]
    return ProbeScores(
        mean_logps[is_chosen],
        mean_logps[~is_chosen],
        logps[of_chosen],
        torch.stack([values.min() for values in torch.split(logps, lengths.long().tolist())])[is_chosen],
        entropy[of_chosen],
        logps[ends[is_chosen]],
        entropy[~of_chosen],
    )


def probe_metrics(now: ProbeScores, start: ProbeScores) -> dict[str, float]:
    """Named numbers of one measurement, compared with the one before training.

    `displacement` is the likelihood displacement (Razin et al. 2024, "Unintentional Unalignment"): by how much the
    chosen sequences' mean log-prob has fallen although their margin over the rejected ones has grown, else 0; and
    `displacement_per_nat` the same for each nat by which the margin has grown.
    `fallen_share` is the share of chosen tokens that have become less likely.
    """
    chosen, start_chosen = (float(scores.chosen_mean_logps.mean()) for scores in (now, start))
    metrics = {
        "chosen_mean_logps": chosen,
        "min_token_logp": float(now.token_logps.min()),
        "median_min_token_logp": float(now.min_token_logps.quantile(0.5)),
        "entropy": float(now.entropy.mean()),
        "eos_probability": float(now.end_logps.exp().mean()),
        "fallen_share": float((now.token_logps < start.token_logps).float().mean()),
    }
    if len(now.rejected_mean_logps):
        rejected, start_rejected = (float(scores.rejected_mean_logps.mean()) for scores in (now, start))
        growth = (chosen - rejected) - (start_chosen - start_rejected)
        metrics["rejected_mean_logps"] = rejected
        metrics["rejected_entropy"] = float(now.rejected_entropy.mean())
        metrics["displacement"] = max(0.0, start_chosen - chosen) if growth > 0 else 0.0
        metrics["displacement_per_nat"] = metrics["displacement"] / growth if growth > 0 else 0.0
    return metrics
