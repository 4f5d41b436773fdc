"""probe/…: a few sequences that are not trained on, scored again and again.

Between two measurements nothing differs but the weights, so these curves are smooth where train/ is noisy, and the
first to show that a policy unlearns what nobody shows it. They are compared with the measurement before training:
which share of the tokens has become less likely, and which tokens the probability went to (`shifted_tokens.jsonl`,
where the last row of a step counts).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, final

import pytorch_lightning as pl
from torch import Tensor

from redi_lab.callbacks.measuring import measuring, record
from redi_lab.callbacks.probe_scores import ProbeScores, probe_metrics, score_probes, shifted_tokens
from redi_lab.data.tokenization import TokenizedSequence

SHIFTED_TOKENS = "shifted_tokens.jsonl"


@final
class Probes(pl.Callback):
    """Logs `probe_metrics` as `probe/NAME` before the first step, each n steps, and after the last one.

    Training is the same to the bit with it and without. Every rank measures the same.

    Args:
        probes: chosen and, where there are any, rejected sequences.
        folder: where shifted_tokens.jsonl goes.
        token_budget: most tokens of one forward pass.
        every_n_steps: optimizer steps between two measurements.
        num_tokens: most tokens that a row of shifted_tokens.jsonl names, of those that gained and of those that lost.

    Raises:
        ValueError: no probe is chosen.
    """

    def __init__(
        self,
        probes: Sequence[TokenizedSequence],
        folder: Path,
        token_budget: int,
        every_n_steps: int = 10,
        num_tokens: int = 10,
    ) -> None:
        if not any(probe.is_chosen for probe in probes):
            raise ValueError("Probes: none of the sequences is a chosen one")
        self._probes = list(probes)
        self._path = folder / SHIFTED_TOKENS
        self._token_budget = max(token_budget, *(len(probe.input_ids) for probe in probes))
        self._interval = every_n_steps
        self._num_tokens = num_tokens
        self._start: ProbeScores | None = None
        self._last_step: int | None = None

    def state_dict(self) -> dict[str, Any]:
        """The measurement before training, which a resumed run must compare with."""
        return {} if self._start is None else self._start._asdict()

    def load_state_dict(self, state_dict: dict[str, Tensor]) -> None:
        """Take over the measurement before training."""
        self._start = ProbeScores(**state_dict) if state_dict else None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Measure what training starts from."""
        if self._start is None or trainer.global_step == 0:
            self._log_probes(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Measure at the interval."""
        if trainer.global_step % self._interval == 0:
            self._log_probes(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Measure the final state, where the interval has not just done so."""
        if self._last_step != trainer.global_step:
            self._log_probes(trainer, pl_module)

    def _log_probes(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._last_step = step = trainer.global_step
        with measuring(trainer, module):
            scores = score_probes(module.backbone, self._probes, self._token_budget)
        if self._start is None:
            self._start = scores
        start = ProbeScores(*(value.to(scores.entropy.device) for value in self._start))
        record(trainer, {f"probe/{name}": value for name, value in probe_metrics(scores, start).items()}, step)
        if trainer.is_global_zero and scores is not self._start:
            row = {"step": step, **shifted_tokens(scores, start, module.backbone.tokenizer, self._num_tokens)}
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
