"""What every verb's run has: a clean output folder, loggers, and summary.json for scripts and people alike.

transformers, Lightning and the loggers are imported where they are needed: a verb that only reads or grades files
starts in a second without them.
"""

from __future__ import annotations

import json
import logging
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from redi_lab.errors import UserError, in_short, unwind_on_sigterm
from redi_lab.files import is_disk_full, naming, write_text
from redi_lab.redaction import redacted
from redi_lab.run.naming import objective, run_name
from redi_lab.tracking.environment import environment_tags

SUMMARY = "summary.json"


def prepare_output_dir(config: DictConfig) -> Path:
    """The folder of this command's results.

    Raises:
        UserError: it already holds a run, or cannot be made.
    """
    folder = Path(config.paths.output_dir).absolute()
    if (folder / SUMMARY).exists() or (folder / "metrics.jsonl").exists():
        raise UserError(f"paths.output_dir={folder}: already holds a run; name another folder or remove it")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"paths.output_dir={folder}: cannot be made ({error.strerror}); name another folder") from error
    unwind_on_sigterm()
    return folder


@contextmanager
def results_folder(config: DictConfig) -> Iterator[Path]:
    """As `prepare_output_dir`; a command that is refused leaves no empty folder, and one without room no torn files.

    Raises:
        UserError: as `prepare_output_dir`.
    """
    folder = prepare_output_dir(config)
    before = set(folder.iterdir())
    try:
        with naming(folder):
            yield folder
    except Exception as error:
        if is_disk_full(error):
            for path in set(folder.iterdir()) - before:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        with suppress(OSError):  # it is not empty
            folder.rmdir()
        raise


def make_logger(config: DictConfig, folder: Path, parent_run_id: str | None, tags: Mapping[str, str]) -> Any:
    """The stage's logger, with configuration and environment already on record."""
    from redi_lab.tracking.local import LocalLogger
    from redi_lab.tracking.logger import ResilientMLflowLogger

    settings = config.logger
    if settings.tracking_uri is None:
        logger: Any = LocalLogger(folder)
    else:
        logger = ResilientMLflowLogger(
            settings.tracking_uri,
            settings.experiment_name,
            run_name(config),
            folder,
            artifact_location=settings.artifact_location,
            parent_run_id=parent_run_id,
            tags=tags,
            flush_seconds=settings.flush_seconds,
        )
    plain = redacted(OmegaConf.to_container(config))
    logger.log_config(OmegaConf.to_yaml(OmegaConf.create(plain)))
    logged = {str(k): v for k, v in plain.items() if k not in ("paths", "logger", "debug")}
    logger.log_hyperparams(logged | ({"objective": objective(config.loss)} if config.get("loss") else {}))
    logger.log_environment()
    return logger


@contextmanager
def command_run(config: DictConfig, overrides: list[str], run_id: str | None = None) -> Iterator[str | None]:
    """The MLflow run of the whole command, under which its stages are nested; None where there is no store.

    `run_id` is that of an interrupted run to go on with.
    """
    from redi_lab.tracking.parent import parent_run

    settings = config.logger
    tags = {"redi_lab.command": " ".join(overrides) or "(default)"}
    with (
        nullcontext(None)
        if settings.tracking_uri is None
        else parent_run(
            settings.tracking_uri,
            settings.experiment_name,
            f"{run_name(config)} (command)",
            tags,
            settings.artifact_location,
            run_id,
        )
    ) as nested_under:
        yield nested_under


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
    write_text(path, json.dumps(redacted(summary), indent=2) + "\n")
    return path


_KINDS = {"name": str, "metrics": dict, "evaluation": dict, "benchmarks": dict, "config": dict}


def read_summary(folder: Path) -> dict[str, Any]:
    """Read summary.json; of what is checked, all may be absent or null.

    Raises:
        UserError: there is none, or it is not as a run writes it.
    """
    path = folder / SUMMARY
    try:
        summary: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        wrong = [key for key, kind in _KINDS.items() if not isinstance(summary.get(key), kind | None)]
        parts = (summary, *(summary.get("benchmarks") or {}).values())
        judged = [part["evaluation"] for part in parts if part.get("evaluation")]
        if wrong or not all(isinstance(one["key"], str) and isinstance(one["protocol"], dict) for one in judged):
            raise TypeError(f"{', '.join(wrong) or 'evaluation'} is of another kind")
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{folder}: no results folder with a readable {SUMMARY} ({in_short(error)}); restore or remove it"
        ) from error
    return summary


def quieten_libraries() -> None:
    """Keep the screen for progress and results: libraries speak from warnings on, without bars of their own."""
    import transformers

    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    for name in ("pytorch_lightning", "lightning.pytorch", "alembic", "mlflow"):
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
