"""The command line: `python -m redi_lab [VERB] [HYDRA OVERRIDES]`.

Configuration is composed and checked before torch is imported, so a mistake is told at once, in one line. Hydra's own
flags (--help, --cfg, --multirun, …) are passed on to Hydra.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from omegaconf import DictConfig

from redi_lab.config import CONFIG_DIR, check, load_config
from redi_lab.errors import UserError

USAGE = """\
Usage: python -m redi_lab [VERB] [KEY=VALUE ...]        (or: redi-lab ...)

  (no verb)   train: the embedded demo, or +experiment=NAME; stages that it starts from are trained once and reused
  evaluate    judge any Hugging Face folder: evaluate checkpoint=FOLDER [eval=...]
  curate      from raw generations to demonstrations and pairs: curate data=openr1_math|openr1_220k|jsonl data.path=FILE
              [curation=paper|strict|grader]; train on the result with data=curated data.path=RESULTS_FOLDER;
              look at it first: curate preview path=RESULTS_FOLDER [n=3] [tokenizer=FOLDER]
  grade       add a verdict and its reason to every row: grade FILE.jsonl [prediction=KEY gold=KEY workers=N]
  compare     compare the last two runs (or: compare RUN RUN ... [last=N]): a page, and the link into MLflow
  ui          serve the MLflow UI on 127.0.0.1 [port=5000]
  upload      complete in MLflow what a failed store lacks: upload RUN_DIR [tracking_uri=URI]

Groups: model data loss optimizer scheduler trainer callbacks logger eval engine debug paths; +experiment=NAME.
See the composed configuration with --cfg job, all of Hydra's flags with --hydra-help."""


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point. Exits with 0, with 2 after a mistake of the user, or with a traceback after one of ours."""
    # Read when torch loads OpenMP. Its threads spin while they wait for each other; on a machine with other work that
    # starves the very thread they wait for (measured with two busy processes on two cores: 340 ms a step against 98).
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    arguments = list(sys.argv[1:] if argv is None else argv)
    verb, rest = _split(arguments)
    wants_traceback = any(a in ("debug=traceback", "debug=fast", "debug.traceback=true") for a in rest)
    try:
        _VERBS[verb](rest)
    except UserError as error:
        if wants_traceback:
            raise
        print(f"redi_lab: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("\nredi_lab: interrupted", file=sys.stderr)
        sys.exit(130)


def _split(arguments: list[str]) -> tuple[str, list[str]]:
    if not arguments or "=" in arguments[0] or arguments[0].startswith(("-", "+", "~")):
        return "train", arguments
    verb, *rest = arguments
    if verb not in _VERBS:
        print(f"redi_lab: unknown verb {verb}; choose one of {', '.join(_VERBS)}", file=sys.stderr)
        sys.exit(2)
    return verb, rest


def _configured(name: str) -> Callable[[list[str]], None]:
    def run(overrides: list[str]) -> None:
        if overrides in (["--help"], ["-h"]):
            print(USAGE)
            return
        if any(override.startswith("-") for override in overrides):
            _hand_to_hydra(name, overrides)
            return
        _execute(name, load_config(name, overrides), overrides)

    return run


def _execute(name: str, config: DictConfig, overrides: list[str]) -> None:
    if name == "train":
        from redi_lab.pipeline.preflight import check_hub

        check_hub(config, overrides)
    if name == "train":
        from redi_lab.pipeline.train import run_training

        folder = run_training(config, overrides)
    elif name == "curate":
        from redi_lab.pipeline.curate import run_curation

        folder = run_curation(config)
    else:
        from redi_lab.pipeline.evaluate import run_evaluation

        folder = run_evaluation(config, overrides)
    print(f"Results:    {folder}")


def _curate(arguments: list[str]) -> None:
    if arguments[:1] == ["preview"]:
        from redi_lab.pipeline.preview import run_preview

        run_preview(arguments[1:])
    else:
        _configured("curate")(arguments)


def _hand_to_hydra(name: str, arguments: list[str]) -> None:
    import hydra
    from hydra.core.hydra_config import HydraConfig

    def task(config: DictConfig) -> None:
        overrides = list(HydraConfig.get().overrides.task)
        check(config, name)
        _execute(name, config, overrides)

    program, sys.argv = sys.argv, [sys.argv[0], *arguments]
    try:
        hydra.main(config_path=str(CONFIG_DIR.resolve()), config_name=name, version_base="1.3")(task)()
    finally:
        sys.argv = program


def _compare(arguments: list[str]) -> None:
    names, settings = _settings(arguments, last="2", port="5000")
    config = load_config("evaluate", ["checkpoint=.", "name=compare", *_pass_on(arguments)], check_paths=False)
    from redi_lab.pipeline.compare import compare
    from redi_lab.pipeline.run import prepare_output_dir, write_summary

    folder = prepare_output_dir(config)
    done = compare(
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


def _grade(arguments: list[str]) -> None:
    names, settings = _settings(arguments, prediction="prediction", gold="gold", workers="2")
    if len(names) != 1 or settings["workers"] == "0":
        raise UserError(
            "grade takes one file: redi-lab grade FILE.jsonl [prediction=KEY gold=KEY workers=N], N from 1 on"
        )
    config = load_config("evaluate", ["checkpoint=.", "name=grade", *_pass_on(arguments)], check_paths=False)
    from redi_lab.evaluation.grading import Grader
    from redi_lab.pipeline.grade import check_rows, grade_file
    from redi_lab.pipeline.run import prepare_output_dir, write_summary

    file, keys, limits = Path(names[0]), {key: settings[key] for key in ("prediction", "gold")}, config.eval.grader
    num_rows = check_rows(file, **keys)
    folder = prepare_output_dir(config)
    with Grader(int(settings["workers"]), limits.timeout_seconds, limits.memory_mb) as grader:
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


def _ui(arguments: list[str]) -> None:
    _, settings = _settings(arguments, port="5000")
    config = load_config("evaluate", ["checkpoint=.", *_pass_on(arguments)], check_paths=False)
    from redi_lab.tracking.server import serve_ui

    print(f"MLflow UI:  http://127.0.0.1:{settings['port']}  (Ctrl-C ends it)", flush=True)
    sys.exit(serve_ui(config.logger.tracking_uri, int(settings["port"])))


def _upload(arguments: list[str]) -> None:
    names, settings = _settings(arguments, tracking_uri="")
    if len(names) != 1:
        raise UserError("upload takes one results folder: redi-lab upload RUN_DIR [tracking_uri=URI]")
    from redi_lab.tracking.upload import upload

    done = upload(names[0], settings["tracking_uri"] or None)
    print(
        f"Uploaded {done.lines} lines of metrics and {done.items} other items to run {done.run_id}, {done.tracking_uri}"
    )
    for missing in done.missing_artifacts:
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
    for key in ("last", "port", "workers"):
        if key in settings and not settings[key].isdigit():
            raise UserError(f"{key}={settings[key]}: must be a whole number")
    return names, settings


def _pass_on(arguments: list[str]) -> list[str]:
    return [argument for argument in arguments if argument.startswith(("paths.", "logger."))]


_VERBS: dict[str, Callable[[list[str]], None]] = {
    "train": _configured("train"),
    "evaluate": _configured("evaluate"),
    "compare": _compare,
    "ui": _ui,
    "upload": _upload,
    "curate": _curate,
    "grade": _grade,
}
