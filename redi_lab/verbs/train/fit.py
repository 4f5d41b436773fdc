"""The part of a stage that many processes can share: callbacks, trainer, and the steps themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import pytorch_lightning as pl
from omegaconf import DictConfig

from redi_lab.callbacks.forecast import Forecast
from redi_lab.callbacks.training_progress import COLUMN, TrainingProgress
from redi_lab.data.datamodule import TraceDataModule
from redi_lab.data.tokenization import TokenizedSequence, TraceEncoder
from redi_lab.evaluation.benchmarks import Benchmark
from redi_lab.modules.base import CausalLMModule
from redi_lab.run import build
from redi_lab.run.plan import plan_run
from redi_lab.run.screen import progress_bar, say
from redi_lab.run.trained import finish_training

if TYPE_CHECKING:
    from redi_lab.tracking.logger import RunLogger


@final
@dataclass(frozen=True)
class Fit:
    """What a training needs to know of its stage and command.

    Attributes:
        config: of the stage.
        command_config: whose evaluation protocol holds during training, too.
        folder: of the stage.
        start: the checkpoint that it starts from; None for the weights of the model group.
        parent_run_id: MLflow run to nest the stage's under.
        tags: of the stage's MLflow run.
        notes: JSON files for each checkpoint, by name.
        development: problems for accuracy during training, if there are any.
    """

    config: DictConfig
    command_config: DictConfig
    folder: Path
    start: Path | None
    parent_run_id: str | None
    tags: Mapping[str, str]
    notes: Mapping[str, Any]
    development: Benchmark | None

    @property
    def checkpoint(self) -> Path:
        """The folder of the last weights."""
        return self.folder / "checkpoints" / "last"

    def run(
        self,
        module: CausalLMModule,
        data: TraceDataModule,
        probes: Sequence[TokenizedSequence],
        encoder: TraceEncoder,
        logger: RunLogger,
        further_callbacks: Sequence[pl.Callback] = (),
    ) -> None:
        """Train, and record in the folder that it is done.

        Raises:
            RunInterruptedError: a signal; the state is saved.
        """
        config, grader = self.config, build.make_grader(self.command_config)
        # What the callbacks that look at the policy need in addition to their settings.
        observers: dict[str, dict[str, Any] | None] = {}
        if config.callbacks.get("accuracy"):
            observers["accuracy"] = None
            if (problems := self.development) is not None:
                measure = build.make_accuracy(config, self.command_config, problems, encoder, grader)
                observers["accuracy"] = {"measure": measure}
        if config.callbacks.get("probes"):
            observers["probes"] = {
                "probes": probes,
                "token_budget": config.data.micro_batch_tokens,
                "folder": self.folder,
            }
        callbacks = [
            *build.make_callbacks(config, self.checkpoint.parent, encoder.end_of_turn_id, observers, self.notes),
            Forecast(say, partial(plan_run, config, data, module.backbone)),
            *further_callbacks,
        ]
        trainer = build.make_trainer(config, [*callbacks, TrainingProgress(progress_bar(COLUMN))], logger)
        with grader:
            trainer.fit(module, datamodule=data)
        if trainer.is_global_zero:
            finish_training(self.folder, self.checkpoint, trainer, callbacks)
