"""TRL's side: the real train() of its trainers on the same tokens, in TRL's own environment.

REDI has no trainer in TRL. Its authors wrote it into a copy of the DPO trainer, and so does this: the forward pass, the
fused head and the loop are those of TRL 1.16, the loss is the paper's. It leaves out the metrics that TRL would compute
beside it, which is to TRL's favour.
"""

from __future__ import annotations

import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the environment knows nothing of this repository

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer
from trl.experimental.cpo import CPOConfig, CPOTrainer

from benchmarks.training.pace import Pace
from benchmarks.training.workload import Workload


class Paced(TrainerCallback):
    """Waits before each step."""

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self.loss: float | None = None

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """Tell of the step before."""
        self._pace.report_and_wait(self.loss)

    def on_train_end(self, *_: Any, **__: Any) -> None:
        """Tell of the last one."""
        self._pace.report_and_wait(self.loss, is_last=True)


class Given:
    """What the trainers below share: tokens as they are, in their order, and the loss kept."""

    paced: Paced

    def _prepare_dataset(self, dataset: Dataset, *_: Any, **__: Any) -> Dataset:
        return dataset

    def _get_train_sampler(self, *_: Any, **__: Any) -> Any:
        return torch.utils.data.SequentialSampler(self.train_dataset)  # type: ignore[attr-defined]

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        """As it is; the loss is remembered."""
        loss = super().training_step(*args, **kwargs)  # type: ignore[misc]
        self.paced.loss = float(loss)
        return loss


class SFT(Given, SFTTrainer):
    """Cross-entropy over completion tokens."""


class DPO(Given, DPOTrainer):
    """With reference log-probs that are computed before training."""


class REDI(Given, DPOTrainer):
    """Eq. 5 in the DPO trainer."""

    alpha: float

    def _compute_loss(self, model: Any, inputs: Any, return_outputs: bool) -> Any:
        mask = inputs["completion_mask"]
        outputs = model(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            labels=inputs["input_ids"].masked_fill(mask == 0, -100),
            use_cache=False,
            fused_lm_head=True,
        )
        mean_logps = outputs.log_probs.sum(1) / mask[:, 1:].sum(1)
        chosen, rejected = mean_logps.chunk(2)
        return (-chosen + self.alpha * rejected).mean()


class SimPO(Given, CPOTrainer):
    """TRL's SimPO lives in its experimental CPO trainer."""

    def tokenize_row(self, feature: Any, model: Any = None) -> dict[str, list[int]]:
        """The tokens as they are, under the names that its collator wants."""
        prompt = feature["prompt_ids"]
        row = {"prompt_input_ids": prompt, "prompt_attention_mask": [1] * len(prompt)}
        for side in ("chosen", "rejected"):
            ids = prompt + feature[f"{side}_ids"]
            row[f"{side}_input_ids"] = ids
            row[f"{side}_attention_mask"] = [1] * len(ids)
            row[f"{side}_labels"] = [-100] * len(prompt) + feature[f"{side}_ids"]
        return row


def make_trainer(work: Workload, folder: str, paced: Paced) -> Any:
    """The trainer of the objective with the settings that both sides share."""
    model = AutoModelForCausalLM.from_pretrained(work.model, dtype=torch.float32, attn_implementation="sdpa")
    longest = max(tokens for step in range(work.num_steps) for tokens, _ in work.sequences(step))
    shared: dict[str, Any] = {
        "output_dir": folder,
        "num_train_epochs": 1,
        "per_device_train_batch_size": work.pairs_per_step,
        "learning_rate": work.learning_rate,
        "lr_scheduler_type": "constant",
        "weight_decay": 0.0,
        "max_grad_norm": work.max_grad_norm,
        "optim": "adamw_torch_fused",
        "bf16": work.precision == "bf16",
        "gradient_checkpointing": work.gradient_checkpointing,
        "max_length": longest,
        "report_to": "none",
        "save_strategy": "no",
        "logging_strategy": "no",
        "disable_tqdm": True,
        "use_cpu": not torch.cuda.is_available(),
    }
    options = {"model": model, "processing_class": AutoTokenizer.from_pretrained(work.model), "callbacks": [paced]}
    pairs = [{f"{key}_ids": ids for key, ids in pair.items()} for pair in work.pairs]
    if work.objective == "sft":
        rows = [
            {"input_ids": p["prompt"] + p[side], "labels": [-100] * len(p["prompt"]) + p[side]}
            for p in work.pairs
            for side in ("chosen", "rejected")
        ]
        arguments = SFTConfig(**shared | {"per_device_train_batch_size": 2 * work.pairs_per_step})
        return SFT(args=arguments, train_dataset=Dataset.from_list(rows), **options)
    if work.objective == "simpo":
        texts = dict.fromkeys(("prompt", "chosen", "rejected"), "x")  # read by nobody
        arguments = CPOConfig(
            loss_type="simpo", cpo_alpha=0.0, beta=work.simpo_beta, simpo_gamma=work.simpo_gamma, **shared
        )
        return SimPO(args=arguments, train_dataset=Dataset.from_list([pair | texts for pair in pairs]), **options)
    arguments = DPOConfig(beta=work.beta, precompute_ref_log_probs=True, **shared)
    kind = REDI if work.objective == "redi" else DPO
    trainer = kind(args=arguments, train_dataset=Dataset.from_list(pairs), **options)
    if isinstance(trainer, REDI):
        trainer.alpha = work.alpha
    return trainer


def main(file: Path) -> None:
    """Train on the workload, one step at a word."""
    pace = Pace()
    warnings.simplefilter("ignore")
    work = Workload.read(file)
    paced = Paced(pace)
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(work, folder, paced)
        trainer.paced = paced
        trainer.train()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
