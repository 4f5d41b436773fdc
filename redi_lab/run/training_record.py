"""`redi_lab.json` in a checkpoint's folder: how it was trained to be asked, so that an evaluation asks alike.

It is not part of a checkpoint's hash: it changes no weight. Folders come from anybody, so nothing in it is executed: it
holds strings and a number.
"""

from __future__ import annotations

from pathlib import Path
from typing import final

from hydra.utils import get_class
from omegaconf import DictConfig
from pydantic import BaseModel, ConfigDict, Field

from redi_lab.config.compose import PROTOCOL_FROM_TRAINING
from redi_lab.data.simulated import SimulatedSource
from redi_lab.errors import UserError

RECORD_FILE = "redi_lab.json"
DEFAULT_NEW_TOKENS = 1024
"""Room for an answer of a model of which nothing is known."""


@final
class TrainingRecord(BaseModel):
    """How a checkpoint was trained to be asked.

    Attributes:
        prompt_template: text of the user turn, see `TraceEncoder`.
        thinking_prefix: opens the assistant turn.
        max_new_tokens: room for an answer of the training's kind.
        data: file, folder or hub id of the traces; None for the embedded task.
        base_model: folder or hub id of the model that training started from; None for a student made from scratch.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    prompt_template: str = Field(pattern=r"\{problem\}")
    thinking_prefix: str
    max_new_tokens: int = Field(ge=1)
    data: str | None = None
    base_model: str | None = None

    @classmethod
    def of(cls, config: DictConfig, base_model: str | None) -> TrainingRecord:
        """What a training under `config` leaves in its checkpoints."""
        data, path = config.data, config.data.path
        return cls(
            prompt_template=data.prompt_template,
            thinking_prefix=data.thinking_prefix,
            max_new_tokens=data.max_new_tokens,
            data=str(Path(path).absolute()) if path is not None and Path(path).exists() else path,
            base_model=base_model,
        )


def read_record(checkpoint: Path) -> TrainingRecord | None:
    """The record in a folder; None where there is none.

    Raises:
        UserError: it is damaged.
    """
    path = checkpoint / RECORD_FILE
    if not path.is_file():
        return None
    try:
        return TrainingRecord.model_validate_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path}: not as a training wrote it ({type(error).__name__}); remove it, and give eval.prompt_template and"
            " eval.max_new_tokens"
        ) from error


def settle_protocol(config: DictConfig, checkpoint: Path, record: TrainingRecord | None, uses_data: bool) -> str | None:
    """Fill in place what the eval group leaves open (null): as in training or, where that is unknown, a default.

    Args:
        config: of `evaluate`.
        checkpoint: for the message.
        record: its training's; None where there is none.
        uses_data: whether the problems are the data group's, which then says how they are put.

    Returns:
        What to tell the user where a default was taken.

    Raises:
        UserError: the problems would be the embedded task's, on which the checkpoint was not trained.
    """
    trained_on = None if record is None else record.data
    is_embedded = issubclass(get_class(config.data.source._target_), SimulatedSource)
    if uses_data and trained_on is not None and is_embedded:
        raise UserError(
            f"eval=heldout: {checkpoint} was trained on {trained_on}, and data=arithmetic keeps other problems: add"
            f" data=jsonl data.path={trained_on}, or choose eval=jsonl eval.path=FILE"
        )
    left_open = [key for key in PROTOCOL_FROM_TRAINING if config.eval[key] is None]
    if record is not None:
        known = record.model_dump()
    elif uses_data and not is_embedded:
        known = config.data
    else:
        known = {"prompt_template": "{problem}", "thinking_prefix": "", "max_new_tokens": DEFAULT_NEW_TOKENS}
        config.eval.fit_context = config.eval.fit_context or "max_new_tokens" in left_open
    for key in left_open:
        if record is not None and "${oc.env:" in str(known[key]):
            raise UserError(
                f"{checkpoint / RECORD_FILE}: {key} holds a variable of the environment that was not recorded; give"
                f" eval.{key}=TEXT"
            )
        config.eval[key] = known[key]
    if not left_open or record is not None or known is config.data:
        return None
    chosen = " ".join(f"eval.{key}={config.eval[key]!r}" for key in left_open)
    return f"{checkpoint.name} does not record how it was trained to be asked ({RECORD_FILE}); taken: {chosen}"
