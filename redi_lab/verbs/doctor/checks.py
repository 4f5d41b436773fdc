"""What `doctor` tries out: whether the lab runs on this machine. Each check yields its findings."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, final

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from redi_lab.errors import UserError
from redi_lab.files import as_size

_REINSTALL = "make install (or pip install -r requirements.lock)"
_FEW_BYTES = 5 * 10**9  # a run of the embedded task needs 50 MB, one of 1.5 billion weights some 30 GB
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


@final
@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        status: "ok", "warning" (something optional is missing, or slower than it could be) or "failed".
        what: in words.
        fix: the command or setting that mends it.
    """

    status: Literal["ok", "warning", "failed"]
    what: str
    fix: str = ""


def check_versions() -> Iterator[Finding]:
    """Python and the installed packages, against what redi-lab asks for."""
    wanted = importlib.metadata.metadata("redi-lab")["Requires-Python"]
    python = f"Python {platform.python_version()} on {platform.system()} {platform.machine()}"
    if not SpecifierSet(wanted).contains(platform.python_version()):
        yield Finding("failed", f"{python}: {wanted} is needed", "make clean install PYTHON=python3.11")
    requirements = map(Requirement, importlib.metadata.requires("redi-lab") or ())
    needed = [one for one in requirements if one.marker is None or one.marker.evaluate({"extra": ""})]
    wrong = [
        f"{one.name} {found or 'is missing'}, wanted {one.specifier}"
        for one in needed
        if (found := _version(one.name)) is None or not one.specifier.contains(found, prereleases=True)
    ]
    if wrong:
        yield Finding("failed", "; ".join(wrong), _REINSTALL)
    else:
        yield Finding("ok", f"{python}; all {len(needed)} packages within their ranges")


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def check_torch() -> Iterator[Finding]:
    """The build of torch, its threads, and the precision that suits the machine."""
    import torch

    from redi_lab.run.precision import fastest_precision

    build = "CPU build" if torch.version.cuda is None else f"CUDA {torch.version.cuda}"
    cores, threads = len(os.sched_getaffinity(0)), torch.get_num_threads()
    precision = f"trainer.precision=auto is {fastest_precision()}"
    yield Finding("ok", f"{torch.__version__} ({build}), {threads} threads on {cores} cores; {precision}")
    if threads > cores:
        yield Finding("warning", f"{threads} threads wait for {cores} cores", f"export OMP_NUM_THREADS={cores}")


def check_gpu() -> Iterator[Finding]:
    """Devices that torch can use."""
    import torch

    if not torch.cuda.is_available():
        if shutil.which("nvidia-smi"):
            fix = "install torch's CUDA build: see pytorch.org"
            yield Finding("warning", "there is a driver, but torch cannot use a GPU", fix)
        else:
            yield Finding("ok", "none; the embedded student trains on the processor, 1.5 billion weights want one")
    for index in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(index)
        bf16 = "bfloat16" if device.major >= 8 else "no bfloat16: trainer.precision=32-true"
        memory, capability = as_size(device.total_memory), f"capability {device.major}.{device.minor}"
        yield Finding("ok", f"{device.name}, {memory}, {capability}, {bf16}")


def check_folder(folder: Path, key: str) -> Iterator[Finding]:
    """Whether a folder, which is not made, can be written, and how much room it has; `key` is its setting."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=there) as file:
            file.write(b"x" * 4096)
            file.flush()
    except OSError as error:
        yield Finding("failed", f"{folder}: cannot be written ({error.strerror})", f"{key}=FOLDER")
        return
    free = shutil.disk_usage(there).free
    what = f"{folder}: writable, {as_size(free)} free"
    yield Finding("ok", what) if free >= _FEW_BYTES else Finding("warning", what, f"{key}=FOLDER")


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
    """Whether a sweep's storage can be opened; `storage` may be empty, for the default of a file in its folder."""
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
    """Import vLLM where the engine would; `python` is the interpreter of its environment, empty for this one."""
    question = "import vllm; print(vllm.__version__)"
    remedy = "make install-vllm, then engine=vllm engine.python=.venv-vllm/bin/python"
    command = [python or sys.executable, "-I", "-c", question]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=_VLLM_SECONDS)
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


def check_training() -> Iterator[Finding]:
    """Train a tiny student for two steps, as a separate command."""
    with tempfile.TemporaryDirectory(prefix="redi_lab_doctor_") as folder:
        run = f"{folder}/run"
        command = [sys.executable, "-m", "redi_lab", *_TINY, f"paths.outputs_dir={folder}", f"paths.output_dir={run}"]
        environment = {**os.environ, "COLUMNS": "200"}
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_TRAINING_SECONDS, env=environment)
        except subprocess.TimeoutExpired:
            yield Finding("failed", f"two steps take more than {_TRAINING_SECONDS} s", shlex.join(["redi-lab", *_TINY]))
            return
        if done.returncode:
            yield Finding("failed", _last_line(done.stderr), shlex.join(["redi-lab", *_TINY, "debug=traceback"]))
            return
        summary = json.loads((Path(run) / "summary.json").read_text(encoding="utf-8"))
    yield Finding("ok", f"two steps of a tiny student in {summary['seconds']:.1f} s")


def _last_line(text: str) -> str:
    return ([line.strip() for line in text.splitlines() if line.strip()] or ["it said nothing"])[-1]
