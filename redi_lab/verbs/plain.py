"""Small verbs: plan, ui and upload read their words, and import what is heavy once nothing is wrong with them."""

from __future__ import annotations

import sys
from pathlib import Path

from redi_lab.config.compose import CONFIG_DIR, load_config
from redi_lab.config.schema.plan import PlanWords, load_assumptions
from redi_lab.config.schema.words import UiWords, UploadWords, read_words, split_words
from redi_lab.errors import UserError


def plan(arguments: list[str]) -> None:
    """Say what a training will need."""
    (words, overrides), assumed = split_words(PlanWords, arguments), load_assumptions(CONFIG_DIR)
    words.check_gpu(assumed)
    if wrong := [a for a in overrides if "=" not in a and not a.startswith("~")]:
        raise UserError(f"plan {wrong[0]}: plan takes KEY=VALUE and overrides of a training: redi-lab plan --help")
    overrides += words.as_overrides()
    config = load_config("train", overrides)
    from redi_lab.verbs.plan import run_plan

    run_plan(config, overrides, words, assumed)


def ui(arguments: list[str]) -> None:
    """Serve the MLflow UI until Ctrl-C."""
    _, words, overrides = read_words(UiWords, arguments)
    config = load_config("evaluate", ["checkpoint=.", *overrides], check_paths=False)
    from redi_lab.tracking.server import runs_url, serve_ui, ui_command

    uri, port = config.logger.tracking_uri, words.port
    ui_command(uri, port)  # what is wrong with them is said first
    print(f"MLflow UI:  {runs_url(uri, config.logger.experiment_name, port)}  (Ctrl-C ends it)", flush=True)
    sys.exit(serve_ui(uri, port))


def upload(arguments: list[str]) -> None:
    """Complete in MLflow what a failed store misses."""
    names, words, _ = read_words(UploadWords, arguments)
    if len(names) != 1:
        raise UserError("upload takes one results folder: redi-lab upload RUN_DIR [tracking_uri=URI]")
    from redi_lab.tracking.mirror import upload as complete

    done = complete(names[0], words.tracking_uri)
    print(
        f"Uploaded {done.lines} lines of metrics and {done.items} other items to run {done.run_id}, {done.tracking_uri}"
    )
    for missing in done.missing:
        print(f"Missing:    {missing} (the file is gone)")
    print(f"Results:    {Path(names[0]).absolute()}")
