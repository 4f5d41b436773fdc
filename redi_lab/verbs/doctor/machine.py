"""What `doctor` looks at on the machine itself: versions, processor, devices, disk, text, processes."""

from __future__ import annotations

import importlib.metadata
import locale
import multiprocessing
import os
import platform
import shutil
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, final

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from redi_lab.files import as_size

_REPOSITORY = Path(__file__).resolve().parents[3]
_LOCK = "requirements.lock"
_REINSTALL = "make install (or pip install -r requirements.lock)"
_FEW_BYTES = 5 * 10**9  # a run of the embedded task needs 50 MB, one of 1.5 billion weights some 30 GB


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


def check_python() -> Iterator[Finding]:
    """The interpreter, against what the package asks for."""
    wanted = importlib.metadata.metadata("redi-lab")["Requires-Python"]
    is_enough = SpecifierSet(wanted).contains(platform.python_version())
    what = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    yield (
        Finding("ok", what)
        if is_enough
        else Finding("failed", f"{what}: {wanted} is needed", "make clean install PYTHON=python3.11")
    )


def check_packages(repository: Path = _REPOSITORY) -> Iterator[Finding]:
    """What is installed, against the ranges of pyproject.toml and the versions of requirements.lock.

    Args:
        repository: where both lie; an installed wheel knows its ranges by itself, and of no lock.
    """
    wanted = [one for one in _requirements(repository) if one.marker is None or one.marker.evaluate({"extra": ""})]
    wrong = [
        f"{one.name} {found or 'is missing'}, wanted {one.specifier}"
        for one in wanted
        if (found := _version(one.name)) is None or not one.specifier.contains(found, prereleases=True)
    ]
    if wrong:
        yield Finding("failed", "; ".join(wrong), _REINSTALL)
    else:
        yield Finding("ok", f"all {len(wanted)} within their ranges")
    if (repository / _LOCK).is_file():
        yield _compare_with_lock(repository / _LOCK)


def _requirements(repository: Path) -> list[Requirement]:
    if (repository / "pyproject.toml").is_file():  # metadata of an editable install are as old as the installation
        project = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        return [Requirement(line) for line in project["dependencies"]]
    return [Requirement(line) for line in importlib.metadata.requires("redi-lab") or ()]


def _compare_with_lock(lock: Path) -> Finding:
    pinned = [line.split("==") for line in lock.read_text(encoding="utf-8").splitlines() if "==" in line]
    other = [
        f"{name} {_version(name) or 'missing'} for {version}" for name, version in pinned if _differs(name, version)
    ]
    if not other:
        return Finding("ok", f"all {len(pinned)} as in {lock.name}")
    more = f", and {len(other) - 3} more" if len(other) > 3 else ""
    return Finding("warning", f"not as in {lock.name}: {', '.join(other[:3])}{more}", _REINSTALL)


def _differs(name: str, version: str) -> bool:
    found = _version(name)
    return found is None or found.partition("+")[0] != version.partition("+")[0]  # 2.13.0+cpu is 2.13.0


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def check_torch() -> Iterator[Finding]:
    """The build of torch and its threads."""
    import torch

    build = "CPU build" if torch.version.cuda is None else f"CUDA {torch.version.cuda}"
    cores, threads = len(os.sched_getaffinity(0)), torch.get_num_threads()
    yield Finding("ok", f"{torch.__version__} ({build}), {threads} threads on {cores} cores")
    if threads > cores:
        yield Finding("warning", f"{threads} threads wait for {cores} cores", f"export OMP_NUM_THREADS={cores}")


def check_precision() -> Iterator[Finding]:
    """Which precision suits the processor, by multiplying matrices."""
    import torch

    from redi_lab.run.precision import cpu_features, fastest_precision

    features = cpu_features()
    known = [name for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if name in features]
    seconds = {dtype: _seconds(torch.ones(768, 768, dtype=dtype)) for dtype in (torch.float32, torch.bfloat16)}
    gain = seconds[torch.float32] / seconds[torch.bfloat16]
    advice = "bf16-mixed may pay for larger models" if gain > 1.3 else "32-true is the quicker one"
    yield Finding(
        "ok",
        f"{', '.join(known) or 'no AVX'}; matrix products in bfloat16 {gain:.2g} times as fast as in float32:"
        f" trainer.precision: {advice}; auto chooses {fastest_precision()}",
    )


def _seconds(matrix: object) -> float:
    """The shortest of several products."""
    times = []
    for _ in range(6):
        start = time.perf_counter()
        matrix @ matrix  # type: ignore[operator]
        times.append(time.perf_counter() - start)
    return min(times)


def check_gpu() -> Iterator[Finding]:
    """Devices that torch can use."""
    import torch

    if not torch.cuda.is_available():
        if shutil.which("nvidia-smi"):
            yield Finding(
                "warning",
                "there is a driver, but torch cannot use a GPU",
                "install torch's CUDA build: see pytorch.org",
            )
        else:
            yield Finding("ok", "none; the embedded student trains on the processor, 1.5 billion weights want one")
    for index in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(index)
        bf16 = "bfloat16" if device.major >= 8 else "no bfloat16: trainer.precision=32-true"
        yield Finding(
            "ok", f"{device.name}, {as_size(device.total_memory)}, capability {device.major}.{device.minor}, {bf16}"
        )


def check_folder(folder: Path, key: str) -> Iterator[Finding]:
    """Whether a folder can be written, and how much room it has; it is not made.

    Args:
        folder: may not exist yet.
        key: setting that names it.
    """
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=there) as file:
            file.write(b"x" * 4096)
            file.flush()
    except OSError as error:
        yield Finding("failed", f"{folder}: cannot be written ({error.strerror})", f"{key}=FOLDER")
        return
    free = shutil.disk_usage(there).free
    status: Literal["ok", "warning"] = "ok" if free >= _FEW_BYTES else "warning"
    yield Finding(status, f"{folder}: writable, {as_size(free)} free", "" if status == "ok" else f"{key}=FOLDER")


def check_text() -> Iterator[Finding]:
    """Whether files, names and the screen are UTF-8."""
    found = {
        "files": locale.getpreferredencoding(False),
        "file names": sys.getfilesystemencoding(),
        "the screen": sys.stdout.encoding or "none",
    }
    other = [f"{what} {name}" for what, name in found.items() if name.lower().replace("-", "") != "utf8"]
    yield (
        Finding("warning", f"not UTF-8: {', '.join(other)}", "export PYTHONUTF8=1") if other else Finding("ok", "UTF-8")
    )


def check_processes() -> Iterator[Finding]:
    """Whether processes can be started and exchange data, as graders and sweeps do."""
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()
    child = context.Process(target=answers.put, args=("here",))
    child.start()
    child.join(10)
    if child.exitcode != 0 or answers.empty():
        child.kill()
        yield Finding("failed", f"a process that was started did not answer (status {child.exitcode})", "ulimit -u")
    else:
        yield Finding("ok", "processes start and answer")
