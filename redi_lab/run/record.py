"""What every verb's run has: a new output folder, a logger, and summary.json for scripts and people alike.

transformers, Lightning and the logger are imported where they are needed: a verb that only reads or grades files
starts in a second without them.
"""

from __future__ import annotations

import json
import logging
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from redi_lab.errors import UserError, in_short, interruptible
from redi_lab.files import is_disk_full, naming, write_text
from redi_lab.redaction import redacted
from redi_lab.run.naming import objective, run_name
from redi_lab.tracking.environment import environment_tags, environment_text

if TYPE_CHECKING:
    from redi_lab.tracking.logger import RunLogger

SUMMARY = "summary.json"


def make_output_dir(folder: Path) -> None:
    """Make the folder of a run's results.

    Raises:
        UserError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"paths.output_dir={folder}: cannot be made ({error.strerror}); name another folder") from error


@contextmanager
def results_folder(config: DictConfig) -> Iterator[Path]:
    """A new folder for this command's results, within which SIGTERM and SIGINT close what is open.

    A command that is refused leaves no empty folder, and one without room no torn files.

    Raises:
        UserError: it already holds a run, or cannot be made.
    """
    folder = Path(config.paths.output_dir).absolute()
    if (folder / SUMMARY).exists() or (folder / "metrics.jsonl").exists():
        raise UserError(f"paths.output_dir={folder}: already holds a run; name another folder or remove it")
    make_output_dir(folder)
    before = set(folder.iterdir())
    try:
        with interruptible(), naming(folder):
            yield folder
    except Exception as error:
        if is_disk_full(error):
            for path in set(folder.iterdir()) - before:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        with suppress(OSError):  # it is not empty
            folder.rmdir()
        raise


def make_logger(config: DictConfig, folder: Path, parent: str | None, tags: Mapping[str, str]) -> RunLogger:
    """The logger of a stage, with configuration and environment already on record.

    Args:
        config: of the stage.
        folder: of its record.
        parent: see `RunLogger`.
        tags: of the run.
    """
    from redi_lab.tracking.logger import RunLogger

    settings = config.logger
    logger = RunLogger(
        folder,
        run_name(config),
        experiment=settings.experiment_name,
        tracking_uri=settings.tracking_uri,
        parent=parent,
        tags={**tags, **environment_tags()},
        flush_seconds=settings.flush_seconds,
    )
    plain = redacted(OmegaConf.to_container(config))
    logger.log_text("config.yaml", OmegaConf.to_yaml(OmegaConf.create(plain)))
    logged = {str(k): v for k, v in plain.items() if k not in ("paths", "logger", "debug")}
    logger.log_hyperparams(logged | ({"objective": objective(config.loss)} if config.get("loss") else {}))
    logger.log_text("environment.txt", environment_text())
    return logger


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Replace a JSON file, whole or not at all, without the secrets in `content`."""
    write_text(path, json.dumps(redacted(content), indent=1) + "\n", is_synced=True)


def write_summary(folder: Path, config: DictConfig, content: Mapping[str, Any]) -> Path:
    """Write summary.json: `content` with seed, versions, commit and the resolved configuration."""
    tags = environment_tags()
    summary = dict(content) | {
        "seed": config.seed,
        "commit": tags.get("mlflow.source.git.commit"),
        "commit_is_dirty": tags.get("git.dirty") == "true",
        "versions": {k.removeprefix("version."): v for k, v in tags.items() if k.startswith("version.")}
        | {"python": tags["python"]},
        "config": OmegaConf.to_container(config),
    }
    path = folder / SUMMARY
    write_json(path, summary)
    return path


_KINDS = {"name": str, "metrics": dict, "evaluation": dict, "benchmarks": dict, "config": dict}


def read_summary(folder: Path) -> dict[str, Any]:
    """Read summary.json; everything in it may be absent or null.

    Raises:
        UserError: there is none, or it is not as a run writes it.
    """
    path = folder / SUMMARY
    try:
        summary: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        wrong = [key for key, kind in _KINDS.items() if not isinstance(summary.get(key), kind | None)]
        parts = (summary, *(summary.get("benchmarks") or {}).values())
        evaluated = [part["evaluation"] for part in parts if part.get("evaluation")]
        if wrong or not all(isinstance(one["key"], str) and isinstance(one["protocol"], dict) for one in evaluated):
            raise TypeError(f"wrong type of {', '.join(wrong) or 'evaluation'}")
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{folder}: no results folder with a readable {SUMMARY} ({in_short(error)}); restore or remove it"
        ) from error
    return summary


def quieten_libraries() -> None:
    """Keep the screen for progress and results: from libraries, warnings and errors alone, and no progress bars."""
    import transformers

    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    for name in ("pytorch_lightning", "lightning.pytorch", "lightning_fabric", "alembic", "mlflow"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        r".*does not have many workers.*",  # packing a batch takes milliseconds
        r".*`isinstance\(treespec, LeafSpec\)` is deprecated.*",
        r".*Found .* module\(s\) in eval mode at the start of training.*",
        r".*You defined a `validation_step` but have no `val_dataloader`.*",
        r".*val_dataloader.*returned 0 length.*",
        r".*Total length of `.*` across ranks is zero.*",
    ):
        warnings.filterwarnings("ignore", message=message)
