"""`redi-lab doctor`: what works on this machine, what does not, and the command that mends it."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, NoReturn, final

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from redi_lab.config.compose import load_config
from redi_lab.config.schema.words import DoctorWords, read_words
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
_SIGNS = {"ok": "[green]✓[/green]", "warning": "[yellow]![/yellow]", "failed": "[red]✗[/red]"}


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


Check = Callable[[], Iterator[Finding]]


def run_doctor(arguments: Sequence[str]) -> NoReturn:
    """The verb: `doctor [engine.python=PATH]`; exits with 1 where something that is needed does not work.

    Raises:
        UserError: an argument is not allowed.
    """
    names, words, overrides = read_words(DoctorWords, arguments)
    if names:
        raise UserError("doctor takes no words: redi-lab doctor [engine.python=PATH]")
    config = load_config("evaluate", ["checkpoint=.", *overrides], check_paths=False)
    checks: dict[str, Check] = {
        "versions": check_versions,
        "torch": check_torch,
        "outputs": partial(check_folder, Path(config.paths.outputs_dir), "paths.outputs_dir"),
        "cache": partial(check_folder, Path(config.paths.cache_dir), "paths.cache_dir"),
        "hub": check_hub,
        "MLflow": partial(check_mlflow, config.logger.tracking_uri, config.logger.experiment_name),
        "vLLM": partial(check_vllm, words.python),
        "training": check_training,
    }
    sys.exit(not examine(checks))


def examine(checks: Mapping[str, Check]) -> bool:
    """Look at everything, print a table, and say whether all that is needed works."""
    table = Table(box=None, header_style="bold")
    for heading in ("", "", "Found", "To mend it"):
        table.add_column(heading, overflow="fold")
    failed = []
    with Console(stderr=True).status("") as status:
        for name, check in checks.items():
            status.update(f"Looking at {name}")
            try:
                findings = list(check())
            except Exception as error:  # whatever is broken here is what the user wants to know, and stops no other
                what = f"the check itself failed: {type(error).__name__}: {' '.join(str(error).split())}"
                findings = [Finding("failed", what)]
            for finding in findings:
                table.add_row(_SIGNS[finding.status], name, escape(finding.what), escape(finding.fix))
            failed += [name] * any(finding.status == "failed" for finding in findings)
    Console().print(table)
    print(f"Does not work: {', '.join(failed)}" if failed else "Everything that is needed works.")
    return not failed


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
    """The build of torch, the precision that suits the machine, and the devices that torch can use."""
    import torch

    from redi_lab.run.devices import fastest_precision

    build = "CPU build" if torch.version.cuda is None else f"CUDA {torch.version.cuda}"
    precision = f"trainer.precision=auto is {fastest_precision()}"
    yield Finding("ok", f"{torch.__version__} ({build}), {torch.get_num_threads()} threads; {precision}")
    if not torch.cuda.is_available() and shutil.which("nvidia-smi"):
        fix = "install torch's CUDA build: see pytorch.org"
        yield Finding("warning", "there is a driver, but torch cannot use a GPU", fix)
    for index in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(index)
        capability = f"capability {device.major}.{device.minor}"
        yield Finding("ok", f"{device.name}, {as_size(device.total_memory)}, {capability}")


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
    """Whether the Hugging Face hub answers."""
    from huggingface_hub import constants

    from redi_lab.run.preflight import is_hub_reachable

    local = "local copies: model.path=FOLDER data.path=FOLDER_OR_FILE"
    if constants.HF_HUB_OFFLINE:
        yield Finding("warning", "switched off by HF_HUB_OFFLINE", f"unset HF_HUB_OFFLINE, or {local}")
    elif is_hub_reachable():
        yield Finding("ok", "answers")
    else:
        yield Finding("warning", "cannot be reached", f"HF_ENDPOINT=URL of a mirror, or {local}")


def check_mlflow(tracking_uri: str | None, experiment_name: str) -> Iterator[Finding]:
    """Whether the store can be opened. A run does without, so this is never more than a warning."""
    from redi_lab.tracking.store import MlflowStore, StoreError, sqlite_path

    if tracking_uri is None:
        yield Finding("ok", "switched off by logger=none")
        return
    database = sqlite_path(tracking_uri)
    if database is not None and not database.exists():
        yield Finding("ok", f"{database}: made by the first run")
        return
    try:
        MlflowStore(tracking_uri, experiment_name)
    except StoreError as error:
        what = f"{error}; runs go on without it, redi-lab upload RUN_DIR completes them"
        yield Finding("warning", what, "logger.tracking_uri=URI, or end what holds it (redi-lab ui?)")
    else:
        yield Finding("ok", f"{tracking_uri}: opened")


def check_vllm(python: str) -> Iterator[Finding]:
    """Import vLLM where the engine would; `python` is the interpreter of its environment, empty for this one."""
    remedy = "make install-vllm, then engine=vllm engine.python=.venv-vllm/bin/python"
    question = "import vllm; print(vllm.__version__)"
    where = f"engine.python={python}" if python else "this environment"
    try:
        answer = _run([python or sys.executable, "-I", "-c", question], _VLLM_SECONDS)
    except OSError as error:
        yield Finding("failed", f"{where}: cannot be run ({error.strerror})", remedy)
        return
    if isinstance(answer, str):
        yield Finding("failed" if python else "warning", f"{where}: {answer}", remedy)
    else:
        yield Finding("ok", f"{answer.stdout.split()[-1]} in {where}")


def check_training() -> Iterator[Finding]:
    """Train a tiny student for two steps, as a separate command."""
    with tempfile.TemporaryDirectory(prefix="redi_lab_doctor_") as folder:
        run = f"{folder}/run"
        places = [f"paths.outputs_dir={folder}", f"paths.output_dir={run}"]
        done = _run([sys.executable, "-m", "redi_lab", *_TINY, *places], _TRAINING_SECONDS)
        if isinstance(done, str):
            yield Finding("failed", done, shlex.join(["redi-lab", *_TINY, "debug=traceback"]))
            return
        summary = json.loads((Path(run) / "summary.json").read_text(encoding="utf-8"))
    yield Finding("ok", f"two steps of a tiny student in {summary['seconds']:.1f} s")


def _run(command: Sequence[str], seconds: float) -> subprocess.CompletedProcess[str] | str:
    """A command that succeeded, else the last line that it said.

    Raises:
        OSError: there is no such program.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        return f"takes more than {seconds} s"
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    return (lines or ["it said nothing"])[-1] if done.returncode else done
