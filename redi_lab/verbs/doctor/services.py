"""What `doctor` tries out: the hub, MLflow, Optuna's storage, vLLM, a grading, a training of two steps."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from redi_lab.errors import UserError
from redi_lab.verbs.doctor.machine import Finding

_VLLM_SECONDS, _TRAINING_SECONDS = 60, 120
_TINY = (
    "+experiment=demo_sft",
    "trainer.max_steps=2",
    "eval=none",
    "logger=none",
    "data.source.num_problems=24",
    "data.source.num_heldout=4",
    "data.batch_size=8",
    "model.config.hidden_size=24",
    "model.config.num_hidden_layers=1",
    *(f"callbacks.{name}=null" for name in ("accuracy", "probes", "gradient_conflict", "collapse")),
    "data.num_development=0",
)
"""A training that takes no time, in which everything has its part."""


def check_hub() -> Iterator[Finding]:
    """Whether the Hugging Face hub answers, and what there is without it."""
    from huggingface_hub import constants

    from redi_lab.run.preflight import is_hub_reachable

    cache = Path(constants.HF_HUB_CACHE)
    cached = len([*cache.glob("models--*"), *cache.glob("datasets--*")]) if cache.is_dir() else 0
    local = "local copies: model.path=FOLDER data.path=FOLDER_OR_FILE"
    there = f"{cached} repositories in its cache"
    if constants.HF_HUB_OFFLINE:
        yield Finding("warning", f"switched off by HF_HUB_OFFLINE; {there}", f"unset HF_HUB_OFFLINE, or {local}")
    elif is_hub_reachable():
        yield Finding("ok", f"answers; {there}")
    else:
        yield Finding("warning", f"cannot be reached; {there}", f"HF_ENDPOINT=URL of a mirror, or {local}")


def check_mlflow(tracking_uri: str | None, experiment_name: str) -> Iterator[Finding]:
    """Whether the store can be opened and written. A run does without, so this is never more than a warning."""
    from redi_lab.tracking.health import check_store
    from redi_lab.tracking.store import StoreError

    if tracking_uri is None:
        yield Finding("ok", "switched off by logger=none")
        return
    try:
        yield Finding("ok", check_store(tracking_uri, experiment_name))
    except StoreError as error:
        fix = "end what holds it (redi-lab ui?)" if "locked" in str(error) else "logger.tracking_uri=URI"
        if "schema" in str(error):
            fix = f"mlflow db upgrade {shlex.quote(tracking_uri)}"
        yield Finding("warning", f"{error}; runs go on without it, redi-lab upload RUN_DIR completes them", fix)


def check_optuna(storage: str) -> Iterator[Finding]:
    """Whether a sweep's storage can be opened; `storage` may be empty, for the default of a file in its own folder."""
    import optuna

    from redi_lab.redaction import redact
    from redi_lab.run.study_storage import check_storage, open_storage

    if not storage:
        yield Finding("ok", f"{optuna.__version__}; storage: a sqlite file for each study (try sweep.storage=URL)")
        return
    try:
        check_storage(storage)
        names = optuna.get_all_study_names(open_storage(storage))
    except (UserError, optuna.exceptions.OptunaError) as error:
        yield Finding("failed", redact(" ".join(str(error).split())), "sweep.storage=URL")
    else:
        yield Finding("ok", f"{redact(storage)}: {len(names)} studies")


def check_vllm(python: str) -> Iterator[Finding]:
    """Import vLLM where the engine would.

    Args:
        python: interpreter of its environment; empty: this one.
    """
    question = "import vllm; print(vllm.__version__)"
    remedy = "make install-vllm, then engine=vllm engine.python=.venv-vllm/bin/python"
    try:
        answer = subprocess.run(
            [python or sys.executable, "-I", "-c", question], capture_output=True, text=True, timeout=_VLLM_SECONDS
        )
    except subprocess.TimeoutExpired:
        yield Finding("warning", f"importing it takes more than {_VLLM_SECONDS} s", "try again on an idle machine")
        return
    except OSError as error:
        yield Finding("failed", f"engine.python={python}: cannot be run ({error.strerror})", remedy)
        return
    if answer.returncode == 0:
        yield Finding("ok", f"{answer.stdout.split()[-1]} in {python or 'this environment'}")
    elif python:
        yield Finding("failed", f"engine.python={python}: {_last_line(answer.stderr)}", remedy)
    elif "No module named 'vllm'" in answer.stderr:
        yield Finding("warning", "not installed here; the transformers engine does without", remedy)
    else:
        yield Finding("warning", _last_line(answer.stderr), remedy)


def check_grader() -> Iterator[Finding]:
    """Grade an answer that only a worker process can."""
    from redi_lab.grading.grader import Grader, Verdict

    with Grader(num_workers=1, timeout_seconds=60) as grader:
        (grade,) = grader.grade_all([(r"\boxed{\sum_{k=1}^{2} k}", "3")])
        used = grader.has_workers
    if grade.verdict is Verdict.RIGHT and used:
        yield Finding("ok", "a worker process graded an answer by algebra")
    else:
        yield Finding(
            "failed", f"a right answer was called {grade.verdict} ({grade.reason})", "eval.grader.memory_mb=2048"
        )


def check_training() -> Iterator[Finding]:
    """Train a tiny student for two steps, as a command of its own."""
    with tempfile.TemporaryDirectory(prefix="redi_lab_doctor_") as folder:
        command = [
            sys.executable,
            "-m",
            "redi_lab",
            *_TINY,
            f"paths.outputs_dir={folder}",
            f"paths.output_dir={folder}/run",
        ]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=_TRAINING_SECONDS, env={**os.environ, "COLUMNS": "200"}
            )
        except subprocess.TimeoutExpired:
            yield Finding("failed", f"two steps take more than {_TRAINING_SECONDS} s", shlex.join(["redi-lab", *_TINY]))
            return
        if done.returncode:
            yield Finding("failed", _last_line(done.stderr), shlex.join(["redi-lab", *_TINY, "debug=traceback"]))
            return
        summary = json.loads((Path(folder) / "run" / "summary.json").read_text(encoding="utf-8"))
    yield Finding("ok", f"two steps of a tiny student in {summary['seconds']:.1f} s")


def _last_line(text: str) -> str:
    return ([line.strip() for line in text.splitlines() if line.strip()] or ["it said nothing"])[-1]
