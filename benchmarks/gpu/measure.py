"""What training costs on one GPU, in nine minutes and in order of value: the tests that need one, then step by step.

    make bench-gpu                                       # benchmarks/results/gpu.json, and a table of it
    python -m benchmarks.gpu.measure --tiny              # all of it at toy size, on a CPU: does it run?
    python -m benchmarks.gpu.measure --only exactness,now

Each section is guarded, timed and written as soon as it is done. They run in a process of their own, which is started
anew after one that crashed or hung; those for which no time is left are named as such. LIMIT in the environment, or
--limit, is the number of seconds for everything. Needs torch, transformers and Lightning, of the lab's other
dependencies none; liger_kernel and cut_cross_entropy are measured where they are installed.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
GPU_TESTS = ("tests/losses", "tests/backbone/test_attention.py", "tests/modules/test_on_a_gpu.py")
PATIENCE = {"tests": 150, "head": 100, "cut_cross_entropy": 110, "paper_batch": 110, "selective_compiled": 110}
USUAL_PATIENCE = 80  # seconds of a section, the start of its process included

_UNUSABLE = 3  # how a worker ends after a section that is recorded, but left the device in no state for another


def main(arguments: Sequence[str] | None = None) -> None:
    """Run every section that time allows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "gpu.json")
    parser.add_argument("--tiny", action="store_true", help="toy sizes on a CPU, which measure nothing")
    parser.add_argument("--only", default="", help="sections, with commas between them; default: all")
    parser.add_argument("--limit", type=float, default=float(os.environ.get("LIMIT", "520")), help="seconds for all")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    from benchmarks.gpu.sections import SECTIONS

    names = options.only.split(",") if options.only else ["tests", *SECTIONS]
    unknown = sorted(set(names) - {"tests", *SECTIONS})
    if unknown:
        parser.error(f"--only={unknown[0]}: there are {', '.join(['tests', *SECTIONS])}")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    if options.worker:
        work(names, options.out, tiny=options.tiny)
        return
    options.out.write_text("{}\n", encoding="utf-8")
    limit = math.inf if options.tiny else options.limit
    supervise(names, options.out, tiny=options.tiny, deadline=time.monotonic() + limit)
    from benchmarks.gpu.report import table

    text = table(read(options.out))
    options.out.with_suffix(".md").write_text(text, encoding="utf-8")
    print(text)


def supervise(names: Sequence[str], out: Path, *, tiny: bool, deadline: float) -> None:
    """Have the sections run by workers; whatever happens to one of them, go on with the next section."""
    left = [name for name in names if name != "tests"]
    if "tests" in names:
        record(out, "tests", run_tests(out, tiny=tiny, seconds=PATIENCE["tests"]))
    while left and time.monotonic() < deadline:
        command = [sys.executable, "-m", "benchmarks.gpu.measure", "--worker", "--only", ",".join(left)]
        command += ["--out", str(out), *(["--tiny"] if tiny else [])]
        worker = subprocess.Popen(command, cwd=ROOT)
        why = watch(worker, left, out, deadline, patience=math.inf if tiny else 1.0)
        left = [name for name in left if name not in read(out)]
        if why is not None and left:
            record(out, left.pop(0), {"error": why})
    for name in left:
        record(out, name, {"error": "left out: no time"})


def watch(
    worker: subprocess.Popen[bytes], names: Sequence[str], out: Path, deadline: float, *, patience: float
) -> str | None:
    """Wait for a worker; end it when a section takes too long, or all of them. Why it ended before its time, if so."""
    began, current = time.monotonic(), None
    while worker.poll() is None:
        time.sleep(0.2)
        unfinished = next((name for name in names if name not in read(out)), None)
        if unfinished != current:
            current, began = unfinished, time.monotonic()
        too_long = time.monotonic() - began > patience * PATIENCE.get(str(current), USUAL_PATIENCE)
        if current is not None and (too_long or time.monotonic() > deadline):
            worker.kill()
            worker.wait()
            return "took too long" if too_long else "left out: no time"
    return None if worker.returncode in (0, _UNUSABLE) else f"its process ended with code {worker.returncode}"


def work(names: Sequence[str], out: Path, *, tiny: bool) -> None:
    """Run sections in this process; end it after one that leaves the device unusable."""
    from benchmarks.gpu.sections import SECTIONS, Bench

    bench = Bench.make(tiny=tiny)
    for name in names:
        if name not in SECTIONS:
            continue
        began = time.perf_counter()
        try:
            found = SECTIONS[name](bench)
        except Exception:
            found = {"error": traceback.format_exc()[-1500:]}
        record(out, name, found | {"seconds_of_section": round(time.perf_counter() - began, 1)})
        try:
            bench.wait()
            bench.tidy()
        except RuntimeError:  # an illegal access, say, after which the device refuses this process everything
            sys.exit(_UNUSABLE)


def run_tests(out: Path, *, tiny: bool, seconds: float) -> dict[str, Any]:
    """The tests that need a GPU; at toy size they are only collected."""
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "-rfEs", "--tb=short", "-W", "default", *GPU_TESTS]
    command += ["-p", "no:cacheprovider", *(["--collect-only"] if tiny else [])]
    began = time.perf_counter()
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=None if tiny else seconds)
        text, code = done.stdout + done.stderr, done.returncode
    except subprocess.TimeoutExpired as error:
        text, code = f"{(error.stdout or b'').decode()}\ntook too long", -1
    out.with_name(f"{out.stem}-tests.log").write_text(text, encoding="utf-8")
    summary = [line for line in text.splitlines() if line.startswith(("FAILED", "ERROR", "SKIPPED"))]
    last = next((line for line in reversed(text.splitlines()) if line.strip()), "")
    return {"code": code, "last": last, "told": summary[:40], "seconds_of_section": time.perf_counter() - began}


def read(out: Path) -> dict[str, Any]:
    """What was found so far."""
    found: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    return found


def record(out: Path, name: str, found: dict[str, Any]) -> None:
    """Add a section, and tell of it."""
    results = read(out) | {name: found}
    partial = out.with_suffix(".partial")
    partial.write_text(json.dumps(results, indent=1, default=str) + "\n", encoding="utf-8")
    partial.replace(out)
    told = {key: value for key, value in found.items() if key not in ("kernels", "losses")}
    print(f"{name}: {json.dumps(told, default=str)[:700]}", flush=True)


if __name__ == "__main__":
    main()
