"""The command line: `python -m redi_lab [VERB] [HYDRA OVERRIDES]`.

Configuration is composed and checked before torch is imported, so a mistake is reported at once, in one line. Hydra's
own flags (--cfg, --multirun, …) are passed on to Hydra.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from importlib import import_module
from typing import NoReturn

from omegaconf import DictConfig

from redi_lab.config.checks import check_choices
from redi_lab.config.compose import CONFIG_DIR, check, explain_composition, load_config
from redi_lab.config.overrides import quote_paths
from redi_lab.errors import EXIT_RESUMABLE, RunInterruptedError, UserError
from redi_lab.files import explained
from redi_lab.redaction import redact
from redi_lab.run.interrupted import recorded_overrides
from redi_lab.run.launched import current_launch
from redi_lab.verbs import plain as verbs
from redi_lab.verbs import usage
from redi_lab.verbs.slurm import run_slurm


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point. Exits with 0, with 2 after a mistake of the user, or with a traceback after one of ours.

    A full disk and other errors of the system that a user can fix are reported like mistakes. A run that a signal ended
    exits with 75 (EX_TEMPFAIL): the same command goes on with it.
    """
    # Read when torch loads OpenMP. Its threads spin while they wait for each other; on a machine with other work that
    # starves the very thread they wait for (measured with two busy processes on two cores: 340 ms a step against 98).
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    # torch asks Linux for pages of 2 MB: a step on a CPU allocates gigabytes, and small pages cost a fifth of its time.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["--version"]:
        print(usage.installed_version())
        return
    verb, rest = _split(arguments)
    if {"--help", "-h"} & set(rest):
        print(usage.overview() if arguments[:1] != [verb] else usage.page(verb))
        return
    try:
        launch = current_launch()
    except UserError as error:
        _refuse(error)
    if launch is not None and launch.rank > 0:
        sys.exit(launch.serve())
    with nullcontext() if launch is None else launch.led():
        _run(verb, rest)


def _run(verb: str, rest: list[str]) -> None:
    wants_traceback = any(a in ("debug=traceback", "debug=fast", "debug.traceback=true") for a in rest)
    try:
        if (run := _SUBVERBS.get((verb, *rest[:1]))) is not None:
            run(rest[1:])
        else:
            _VERBS[verb](rest)
    except Exception as error:
        mistake = error if isinstance(error, UserError) else explained(error)
        if wants_traceback or mistake is None:
            raise
        _refuse(mistake)
    except RunInterruptedError as error:
        print(f"\nredi_lab: {error}", file=sys.stderr)
        sys.exit(EXIT_RESUMABLE)
    except KeyboardInterrupt:
        print("\nredi_lab: interrupted", file=sys.stderr)
        sys.exit(130)


def _refuse(error: UserError) -> NoReturn:
    print(f"redi_lab: {redact(str(error))}", file=sys.stderr)
    sys.exit(2)


def _split(arguments: list[str]) -> tuple[str, list[str]]:
    if not arguments or "=" in arguments[0] or arguments[0].startswith(("-", "+", "~")):
        return "train", arguments
    verb, *rest = arguments
    if verb not in _VERBS:
        _refuse(UserError(f"unknown verb {verb}; choose one of {', '.join(_VERBS)}"))
    return verb, rest


def _configured(name: str) -> Callable[[list[str]], None]:
    def run(overrides: list[str]) -> None:
        if any(override.startswith("-") for override in overrides):
            _hand_to_hydra(name, overrides)
            return
        if name == "train":
            overrides = recorded_overrides(overrides)
        _execute(name, load_config(name, overrides), overrides)

    return run


def _execute(name: str, config: DictConfig, overrides: list[str]) -> None:
    if name != "curate":
        from redi_lab.run.preflight import check_adapters, check_engine, check_hub, check_source

        check_engine(config)
        check_source(config)
        if name == "train":
            check_adapters(config)
        check_hub(config, overrides)
    if name == "train" and config.rounds is not None:
        from redi_lab.verbs.rounds import run_rounds

        folder = run_rounds(config, overrides)
    elif name == "train":
        from redi_lab.verbs.train.command import run_training

        folder = run_training(config, overrides)
    elif name == "curate":
        from redi_lab.verbs.curate.command import run_curation

        folder = run_curation(config)
    elif name == "generate":
        from redi_lab.verbs.generate import run_generation

        folder = run_generation(config)
    else:
        from redi_lab.verbs.evaluate.command import run_evaluation

        folder = run_evaluation(config)
    print(f"Results:    {folder}")


def _curate(arguments: list[str]) -> None:
    if any(argument.lstrip("+").startswith("data.source.num_heldout=") for argument in arguments):
        raise UserError(
            "data.source.num_heldout: curate keeps every problem; hold problems out when training on its result:"
            " data=curated data.path=RESULTS_FOLDER data.source.num_heldout=N"
        )
    _configured("curate")(arguments)


def _compare_evaluations(arguments: list[str]) -> None:
    if "--over-seeds" in arguments:
        from redi_lab.verbs.evaluate.over_seeds import run_seed_comparison

        run_seed_comparison([argument for argument in arguments if argument != "--over-seeds"])
    else:
        from redi_lab.verbs.evaluate.compare import run_evaluation_compare

        run_evaluation_compare(arguments)


def _sweep(arguments: list[str]) -> None:
    from redi_lab.verbs.sweep.driver import run_sweep

    if flags := [argument for argument in arguments if argument.startswith("-")]:
        raise UserError(f"{flags[0]}: sweep takes no flags, only KEY=VALUE, +sweeps=NAME and overrides of its runs")
    print(f"Results:    {run_sweep(arguments)}")


def _hand_to_hydra(name: str, arguments: list[str]) -> None:
    import hydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.errors import ConfigCompositionException, OverrideParseException
    from hydra.types import RunMode
    from yaml import YAMLError

    def task(config: DictConfig) -> None:
        overrides = list(HydraConfig.get().overrides.task)
        try:
            check(config, name)
            if HydraConfig.get().mode == RunMode.MULTIRUN:
                _execute_apart(name, config, overrides)
            else:
                _execute(name, config, overrides)
        except UserError as error:  # Hydra would show a traceback
            _refuse(error)

    arguments = quote_paths(arguments)
    overrides = [a for a in arguments if "=" in a and not a.startswith(("-", "~", "hydra", "+hydra"))]
    check_choices(overrides, CONFIG_DIR)
    program, sys.argv = sys.argv, [sys.argv[0], *arguments]
    full_error = os.environ.get("HYDRA_FULL_ERROR")
    os.environ["HYDRA_FULL_ERROR"] = "1"  # else Hydra itself prints what is wrong, on many lines
    try:
        hydra.main(config_path=str(CONFIG_DIR.resolve()), config_name=name, version_base="1.3")(task)()
    except (ConfigCompositionException, OverrideParseException, YAMLError) as error:
        raise UserError(explain_composition(error, name, overrides, CONFIG_DIR)) from error
    finally:
        sys.argv = program
        os.environ.pop("HYDRA_FULL_ERROR")
        if full_error is not None:
            os.environ["HYDRA_FULL_ERROR"] = full_error


def _execute_apart(name: str, config: DictConfig, overrides: list[str]) -> None:
    """Run a job of a multirun in a separate process and results folder, so that no job affects the next.

    Raises:
        subprocess.CalledProcessError: it failed; Hydra goes on with the other jobs and reports it at the end.
    """
    from hydra.core.hydra_config import HydraConfig

    from redi_lab.verbs.sweep.space import as_overrides

    hydra = HydraConfig.get()
    verb = [] if name == "train" else [name]
    searched = [a for s in hydra.runtime.config_sources if s.provider == "command-line" for a in ("-cd", s.path)]
    folder = as_overrides({"paths.output_dir": f"{config.paths.output_dir}-{hydra.job.num}"})
    subprocess.run([sys.executable, "-m", "redi_lab", *verb, *searched, *overrides, *folder], check=True)


def _imported(place: str) -> Callable[[list[str]], object]:
    """A function of a verb's module, which is imported when it is called: most need libraries that take seconds."""
    module, name = place.split(":")
    return lambda arguments: getattr(import_module(f"redi_lab.verbs.{module}"), name)(arguments)


_VERBS: dict[str, Callable[[list[str]], object]] = {
    "train": _configured("train"),
    "evaluate": _configured("evaluate"),
    "generate": _configured("generate"),
    "curate": _curate,
    "sweep": _sweep,
    "chat": _imported("chat:run_chat"),
    "merge": _imported("merge:run_merge"),
    "grade": _imported("grade:run_grade"),
    "compare": _imported("compare:run_compare"),
    "paper": _imported("paper.command:run_paper"),
    "plan": verbs.plan,
    "runs": _imported("runs:run_runs"),
    "doctor": _imported("doctor:run_doctor"),
    "slurm": run_slurm,
    "ui": verbs.ui,
    "upload": verbs.upload,
}
_SUBVERBS: dict[tuple[str, ...], Callable[[list[str]], object]] = {
    ("curate", "preview"): _imported("curate.preview:run_preview"),
    ("curate", "advise"): _imported("curate.advise:run_advise"),
    ("curate", "hygiene"): _imported("curate.hygiene:run_hygiene"),
    ("curate", "revthink"): _imported("curate.revthink:run_revthink"),
    ("curate", "steps"): _imported("curate.steps:run_steps"),
    ("curate", "omega"): _imported("curate.omega:run_omega"),
    ("evaluate", "compare"): _compare_evaluations,
}
