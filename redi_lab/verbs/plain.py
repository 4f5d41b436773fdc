"""The verbs that take words rather than a whole configuration: compare, doctor, grade, runs, ui, upload.

Each reads its arguments first and imports what is heavy afterwards, so that a mistake is reported at once.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import cast

from redi_lab.config.compose import load_config
from redi_lab.config.values import is_count
from redi_lab.errors import UserError


def compare(arguments: list[str]) -> None:
    """Compare runs: a page, and links into MLflow."""
    names, settings = _settings(arguments, last="2", port="5000")
    config = load_config("evaluate", ["checkpoint=.", "name=compare", *_pass_on(arguments)], check_paths=False)
    from redi_lab.run.record import results_folder, write_summary
    from redi_lab.verbs.compare import compare as compare_runs

    with results_folder(config) as folder:
        done = compare_runs(
            names,
            outputs_dir=Path(config.paths.outputs_dir),
            tracking_uri=config.logger.tracking_uri,
            destination=folder / "index.html",
            last=int(settings["last"]),
            ui_url=f"http://127.0.0.1:{settings['port']}",
        )
        content = {"name": "compare", "verb": "compare", "runs": done.metrics, "page": str(done.page)}
        write_summary(folder, config, content | {"mlflow_url": done.mlflow_url, "curves_url": done.curves_url})
    print(f"Compared:   {', '.join(done.runs)}")
    for title, url in (("MLflow", done.mlflow_url), ("Curves", done.curves_url)):
        if url is not None:
            print(f"{title + ':':<12}{url}")
    if done.not_in_store:
        print(f"Not in MLflow (redi-lab upload RUN_DIR): {', '.join(done.not_in_store)}")
    print("The links need the UI: redi-lab ui")
    print(f"Page:       {done.page}")
    print(f"Results:    {folder}")


def doctor(arguments: list[str]) -> None:
    """Say what works here and what does not; exits with 1 where something needed does not."""
    names, settings = _settings(arguments, **{"sweep.storage": "", "engine.python": "", "format": "table"})
    if names or settings["format"] not in ("table", "json"):
        raise UserError("doctor takes no words: redi-lab doctor [sweep.storage=URL] [engine.python=PATH] [format=json]")
    config = load_config("evaluate", ["checkpoint=.", *_pass_on(arguments)], check_paths=False)
    from redi_lab.verbs.doctor.command import run_doctor

    sys.exit(not run_doctor(config, settings["sweep.storage"], settings["engine.python"], settings["format"]))


def grade(arguments: list[str]) -> None:
    """Add a verdict and its reason to every row of a file."""
    from redi_lab.grading.extraction import ANSWERS, Answers

    names, settings = _settings(arguments, prediction="prediction", gold="gold", workers="2", answers="boxed")
    if len(names) != 1 or not 1 <= int(settings["workers"]) <= 1024:
        raise UserError(
            "grade takes one file: redi-lab grade FILE.jsonl [prediction=KEY gold=KEY workers=N answers=WHERE],"
            " N from 1 on to 1024"
        )
    if settings["answers"] not in ANSWERS:
        raise UserError(f"answers={settings['answers']}: must be one of {', '.join(ANSWERS)}")
    config = load_config("evaluate", ["checkpoint=.", "name=grade", *_pass_on(arguments)], check_paths=False)
    from redi_lab.grading.grader import Grader
    from redi_lab.run.record import results_folder, write_summary
    from redi_lab.verbs.grade import check_rows, grade_file

    file, keys, limits = Path(names[0]), {key: settings[key] for key in ("prediction", "gold")}, config.eval.grader
    num_rows = check_rows(file, **keys)
    answers = cast(Answers, settings["answers"])
    with (
        results_folder(config) as folder,
        Grader(int(settings["workers"]), limits.timeout_seconds, limits.memory_mb, answers) as grader,
    ):
        done = grade_file(
            file, folder / "graded.jsonl", grader, prediction=keys["prediction"], gold=keys["gold"], num_rows=num_rows
        )
        content = {
            "name": "grade",
            "verb": "grade",
            "file": str(file.absolute()),
            "graded": str(done.path),
            "keys": keys,
        }
        tally = {"num_rows": done.num_rows, "verdicts": done.verdicts, "reasons": done.reasons}
        write_summary(folder, config, content | tally | {"grader": dict(grader.settings)})
    for reason, count in done.reasons.items():
        print(f"{count:>8}  {reason}")
    print(f"Graded:     {done.num_rows} rows: " + ", ".join(f"{n} {verdict}" for verdict, n in done.verdicts.items()))
    print(f"Results:    {folder}")


def runs(arguments: list[str]) -> None:
    """List the runs below outputs/, or say what of them can go and, on request, remove it."""
    names, settings = _settings(arguments, keep_days="0", interrupted="false", yes="false")
    wrong = next((key for key in ("interrupted", "yes") if settings[key] not in ("true", "false")), None)
    if wrong is not None:
        raise UserError(f"{wrong}={settings[wrong]}: must be true or false")
    if names not in ([], ["clean"]):
        raise UserError(f"runs {' '.join(names)}: unknown; runs lists, runs clean shows what can be removed")
    config = load_config("evaluate", ["checkpoint=.", *_pass_on(arguments)], check_paths=False)
    from redi_lab.files import as_size
    from redi_lab.verbs.runs import describe, find_runs, removable, remove

    outputs = Path(config.paths.outputs_dir)
    found = find_runs(outputs, Path(config.paths.cache_dir))
    if not names:
        print(
            *describe(found),
            f"{len(found)} runs and stages in {outputs}, {as_size(sum(r.size for r in found))}",
            sep="\n",
        )
        return
    can_go = removable(found, keep_days=int(settings["keep_days"]), interrupted=settings["interrupted"] == "true")
    for item in can_go:
        print(f"{as_size(item.size):>9}  {item.folder}  ({item.reason})")
    freed = as_size(sum(item.size for item in can_go))
    if settings["yes"] == "true":
        remove(can_go)
        print(f"Removed:    {len(can_go)} folders, {freed}")
    else:
        print(
            f"Can go:     {len(can_go)} folders, {freed}; nothing was removed (to do it: redi-lab runs clean yes=true)"
        )


def ui(arguments: list[str]) -> None:
    """Serve the MLflow UI until Ctrl-C."""
    _, settings = _settings(arguments, port="5000")
    config = load_config("evaluate", ["checkpoint=.", *_pass_on(arguments)], check_paths=False)
    from redi_lab.tracking.server import runs_url, serve_ui, ui_command

    uri, port = config.logger.tracking_uri, int(settings["port"])
    ui_command(uri, port)  # what is wrong with them is said first
    print(f"MLflow UI:  {runs_url(uri, config.logger.experiment_name, port)}  (Ctrl-C ends it)", flush=True)
    sys.exit(serve_ui(uri, port))


def upload(arguments: list[str]) -> None:
    """Make MLflow's copy of a run complete."""
    names, settings = _settings(arguments, tracking_uri="")
    if len(names) != 1:
        raise UserError("upload takes one results folder: redi-lab upload RUN_DIR [tracking_uri=URI]")
    from redi_lab.tracking.mirror import upload as complete

    done = complete(names[0], settings["tracking_uri"] or None)
    print(
        f"Uploaded {done.lines} lines of metrics and {done.items} other items to run {done.run_id}, {done.tracking_uri}"
    )
    for missing in done.missing:
        print(f"Missing:    {missing} (the file is gone)")
    print(f"Results:    {Path(names[0]).absolute()}")


def _settings(arguments: list[str], **defaults: str) -> tuple[list[str], dict[str, str]]:
    """Plain words, and KEY=VALUE of the keys in `defaults`; paths.* and logger.* are left to the configuration."""
    names, settings = [], dict(defaults)
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals:
            names.append(argument)
        elif key in defaults:
            settings[key] = value
        elif not key.startswith(("paths.", "logger.")):
            raise UserError(f"unknown key {key}: allowed are {', '.join([*defaults, 'paths.*', 'logger.*'])}")
    for key in ("last", "port", "workers", "keep_days"):
        if key in settings and not is_count(settings[key]):
            raise UserError(f"{key}={settings[key]}: must be a whole number of at most nine digits")
    return names, settings


def _pass_on(arguments: list[str]) -> list[str]:
    return [argument for argument in arguments if argument.startswith(("paths.", "logger."))]
