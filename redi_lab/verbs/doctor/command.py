"""`redi-lab doctor`: what works here, what does not, and the command that mends it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path

from omegaconf import DictConfig
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from redi_lab.verbs.doctor import machine, services
from redi_lab.verbs.doctor.machine import Finding

Check = Callable[[], Iterator[Finding]]
_SIGNS = {"ok": "[green]✓[/green]", "warning": "[yellow]![/yellow]", "failed": "[red]✗[/red]"}


def make_checks(config: DictConfig, storage: str, python: str) -> tuple[dict[str, Check], dict[str, Check]]:
    """All checks by name: those of this process, and those that wait for another one.

    Args:
        config: its paths and logger groups.
        storage: of sweeps; empty: none in particular.
        python: of vLLM's environment; empty: this one.
    """
    here: dict[str, Check] = {
        "Python": machine.check_python,
        "packages": machine.check_packages,
        "torch": machine.check_torch,
        "processor": machine.check_precision,
        "GPU": machine.check_gpu,
        "outputs": partial(machine.check_folder, Path(config.paths.outputs_dir), "paths.outputs_dir"),
        "cache": partial(machine.check_folder, Path(config.paths.cache_dir), "paths.cache_dir"),
        "text": machine.check_text,
        "processes": machine.check_processes,
        "hub": services.check_hub,
        "MLflow": partial(services.check_mlflow, config.logger.tracking_uri, config.logger.experiment_name),
        "Optuna": partial(services.check_optuna, storage),
        "grader": services.check_grader,
    }
    elsewhere: dict[str, Check] = {
        "vLLM": partial(services.check_vllm, python),
        "training": services.check_training,
    }
    return here, elsewhere


def examine(
    here: Mapping[str, Check], elsewhere: Mapping[str, Check], say: Callable[[str], None] = lambda name: None
) -> dict[str, list[Finding]]:
    """Run all checks; one that breaks is a finding, and stops no other.

    Args:
        here: run one after another.
        elsewhere: run beside them.
        say: told the name of the check that is waited for.
    """
    with ThreadPoolExecutor(max_workers=1) as waiting:
        later = {name: waiting.submit(_run, check) for name, check in elsewhere.items()}
        found = {}
        for name, check in here.items():
            say(name)
            found[name] = _run(check)
        for name, future in later.items():
            say(name)
            found[name] = future.result()
    return found


def _run(check: Check) -> list[Finding]:
    try:
        return list(check())
    except Exception as error:  # whatever is broken here is what the user wants to know
        return [Finding("failed", f"the check itself failed: {type(error).__name__}: {' '.join(str(error).split())}")]


def run_doctor(config: DictConfig, storage: str, python: str, form: str) -> bool:
    """Examine, print a table (or JSON, with form="json"), and say whether everything that is needed works."""
    start = time.monotonic()
    with Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
        transient=True,
        console=Console(stderr=True),
    ) as progress:
        task = progress.add_task("", total=None)
        found = examine(
            *make_checks(config, storage, python), lambda name: progress.update(task, description=f"Looking at {name}")
        )
    if form == "json":
        print(
            json.dumps({name: [asdict(finding) for finding in findings] for name, findings in found.items()}, indent=1)
        )
    else:
        _print_table(found, time.monotonic() - start)
    return not _failed(found)


def _print_table(found: Mapping[str, Sequence[Finding]], seconds: float) -> None:
    table = Table(box=None, header_style="bold")
    for heading in ("", "", "Found", "To mend it"):
        table.add_column(heading, overflow="fold")
    for name, findings in found.items():
        for finding in findings:
            table.add_row(_SIGNS[finding.status], name, escape(finding.what), escape(finding.fix))
            name = ""
    Console().print(table)
    failed = _failed(found)
    verdict = f"Does not work: {', '.join(failed)}" if failed else "Everything that is needed works."
    print(f"{verdict} ({seconds:.0f} s)")


def _failed(found: Mapping[str, Sequence[Finding]]) -> list[str]:
    return [name for name, findings in found.items() if any(finding.status == "failed" for finding in findings)]
