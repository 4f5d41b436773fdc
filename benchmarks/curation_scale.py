"""Time and memory of `curate` on made-up rows: is the cost linear, and the memory bounded?

    python benchmarks/curation_scale.py --rows 1000 10000 100000 --words 100
    python benchmarks/curation_scale.py --rows 500 1000 2000 --words 6300 curation.tokenizer=FOLDER

Prints the seconds of each command, of the clock and of all its processes' CPU time (which other work on the machine
disturbs less), and the peak of the resident memory, of the command itself and of it and its workers together, sampled
ten times a second (pages that processes share are counted in each).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

_PAGE = os.sysconf("SC_PAGE_SIZE")
_SYLLABLES = ["ba", "de", "fi", "go", "lu", "ma", "ne", "po", "ri", "so", "ta", "ve"]


def write_rows(file: Path, rows: int, words: int, generations: int, seed: int = 0) -> None:
    """Rows of `generations` traces of about `words` words, every other one right; two traces share their beginning."""
    rng = random.Random(seed)
    vocabulary = ["".join(rng.choices(_SYLLABLES, k=rng.randint(1, 4))) for _ in range(4000)]
    with file.open("w", encoding="utf-8") as stream:
        for index in range(rows):
            start = rng.choices(vocabulary, k=words // 4)
            items = [
                {
                    "text": " ".join(["<think>", *start, *rng.choices(vocabulary, k=words - len(start)), "</think>"])
                    + f" \\boxed{{{index + place % 2}}}",
                    "correct": place % 2 == 0,
                }
                for place in range(generations)
            ]
            problem = f"{' '.join(rng.choices(vocabulary, k=40))} {index}?"
            stream.write(json.dumps({"problem": problem, "answer": str(index), "generations": items}) + "\n")


def measure(command: list[str]) -> tuple[float, float, int, int]:
    """Seconds, CPU seconds, peak bytes of the command, and peak bytes of everything in its session."""
    start = time.monotonic()
    process = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL)
    own = together = 0
    ticks: dict[int, int] = {}  # a process of the pool may end unwaited for, so its last known number counts
    while process.poll() is None:
        seen = _processes_of_session(process.pid)
        ticks |= {pid: used for pid, (used, _) in seen.items()}
        resident = {pid: held for pid, (_, held) in seen.items()}
        own, together = max(own, resident.get(process.pid, 0)), max(together, sum(resident.values()))
        time.sleep(0.1)
    if process.returncode:
        raise SystemExit(process.returncode)
    return time.monotonic() - start, sum(ticks.values()) / os.sysconf("SC_CLK_TCK"), own, together


def _processes_of_session(session: int) -> dict[int, tuple[int, int]]:
    """Process → (clock ticks of CPU time, resident bytes)."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                if int(fields[3]) == session:
                    resident = int((entry / "statm").read_text().split()[1]) * _PAGE
                    found[int(entry.name)] = int(fields[11]) + int(fields[12]), resident
            except (OSError, IndexError):  # it has ended meanwhile
                continue
    return found


def main() -> None:
    """Write rows, curate them, and print what it cost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", required=True)
    parser.add_argument("--words", type=int, default=100)
    parser.add_argument("--generations", type=int, default=2)
    options, overrides = parser.parse_known_args()
    for rows in options.rows:
        curate(rows, options.words, options.generations, overrides)


def curate(rows: int, words: int, generations: int, overrides: list[str]) -> None:
    """One line."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.jsonl"
        write_rows(file, rows, words, generations)
        command = [sys.executable, "-m", "redi_lab", "curate", "data=jsonl", f"data.path={file}"]
        seconds, cpu, own, together = measure([*command, f"paths.outputs_dir={folder}", *overrides])
        megabytes = file.stat().st_size / 1e6
    print(
        f"{rows} rows, {megabytes:.0f} MB: {seconds:.1f} s, {cpu:.1f} s of CPU time;"
        f" peak {own / 2**20:.0f} MiB, with workers {together / 2**20:.0f} MiB",
        flush=True,
    )


if __name__ == "__main__":
    main()
