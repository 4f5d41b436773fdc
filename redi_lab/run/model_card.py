"""README.md of a checkpoint's folder: a model card in the form of the Hugging Face hub, from the run's own record.

    write_cards(results_folder)  # of all its checkpoints

What the record does not say, the card does not say. Secrets are out of the record; folders of this machine are cut to
their last part.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from redi_lab.callbacks.checkpoints import BEST
from redi_lab.errors import UserError
from redi_lab.files import write_text
from redi_lab.hub import is_hub_id
from redi_lab.redaction import redact
from redi_lab.run.naming import objective, objective_name, run_label
from redi_lab.run.record import read_summary
from redi_lab.run.training_record import TrainingRecord, read_record

CARD = "README.md"
_LIBRARY, _WHAT = ("transformers", "peft"), ("Weights of", "An adapter (peft) for")
_PRIVATE = ("paths.", "logger", "debug", "resume=")
"""Beginnings of overrides that change no weight and name places of this machine."""
_SCORES = {"pass_at_1": "pass@1", "greedy_pass_at_1": "greedy pass@1"}
Summary = Mapping[str, Any]


def write_cards(folder: Path) -> None:
    """Write the card of each checkpoint of a finished stage, and of its adapter.

    Raises:
        UserError: there is no readable summary.
    """
    summary = read_summary(folder)
    stages = [*map(_summary_of, summary["stages"][:-1]), summary]
    for checkpoint in (path.parent for path in (folder / "checkpoints").glob("[!.]*/config.json")):
        record = read_record(checkpoint)
        write_text(checkpoint / CARD, model_card(stages, record, checkpoint.name))
        if (checkpoint / "adapter").is_dir():
            write_text(checkpoint / "adapter" / CARD, model_card(stages, record, checkpoint.name, is_adapter=True))


def copy_card(adapter: Path, merged: Path) -> None:
    """Give a model the card of the adapter that was merged into it, if that has one."""
    if (adapter / CARD).is_file():
        text = (adapter / CARD).read_text(encoding="utf-8")
        for words in (_LIBRARY, _WHAT):
            text = text.replace(words[True], words[False], 1)
        write_text(merged / CARD, text)


def _summary_of(stage: Summary) -> Summary:
    """Of an earlier stage; what the later one knows of it where that is gone."""
    try:
        return read_summary(Path(stage["output_dir"]))
    except UserError:
        return stage


def model_card(stages: Sequence[Summary], record: TrainingRecord | None, name: str, *, is_adapter: bool = False) -> str:
    """The text of a card.

    Args:
        stages: summaries of the stages that led to the checkpoint, in order.
        record: how it was trained to be asked.
        name: of the checkpoint, such as `last`.
        is_adapter: whether the card is for its adapter alone.
    """
    last = stages[-1]
    metrics = last["metrics"] if name == "last" else (last["best"] or {}).get("metrics") if name == BEST else None
    start = "" if record is None else f" from {_named(record.base_model)}" if record.base_model else " from scratch"
    what = f"{_WHAT[is_adapter]} a causal language model, trained{start} with redi-lab: {run_label(last['config'])}."
    parts = [f"# {last['name']}", what]
    parts += [*_state(last, name), *_prompt(record), "## Data", _data(last, record), "## Recipe", _recipe(stages)]
    parts += ["## Scores", *_scores(last, metrics), "## The command", *_command(last)]
    front = _front_matter(last, record, metrics, _LIBRARY[is_adapter])
    return redact(f"---\n{front}\n---\n\n" + "\n\n".join(parts) + "\n")


def _front_matter(last: Summary, record: TrainingRecord | None, metrics: Summary | None, library: str) -> str:
    base, data = (record.base_model, record.data) if record else (None, None)
    benchmark, path = _benchmark(last), str(last["config"]["eval"].get("path"))
    kind = path if is_hub_id(path) else benchmark
    found = [
        EvalResult("text-generation", kind, benchmark, title, round(metrics[key]["value"], 4))
        for key, title in _SCORES.items()
        if metrics and key in metrics
    ]
    return ModelCardData(
        base_model=base if base and is_hub_id(base) else None,
        datasets=[data] if data and is_hub_id(data) else None,
        library_name=library,
        pipeline_tag="text-generation",
        tags=["redi-lab", objective_name(str(last["loss"]["_target_"]))],
        model_name=str(last["name"]) if found else None,
        eval_results=found or None,
    ).to_yaml()


def _benchmark(summary: Summary) -> str:
    settings = summary["config"]["eval"]
    return str(settings.get("name") or settings["benchmark"])


def _state(last: Summary, name: str) -> Iterator[str]:
    """Which state of the training it is, and what went wrong in it."""
    if str(last["loss"]["_target_"]).endswith("TokenRewardModule"):
        yield "It scores tokens with the head in reward_head.safetensors, and no longer writes text."
    if name == BEST and last["best"]:
        chosen = ", ".join(f"{key} {value:g}" for key, value in last["best"]["chosen"].items())
        yield f"This is the state that was best on development data ({chosen})."
    elif name != "last":
        yield f"This is the state at {name.replace('-', ' ')}."
    if stopped := last.get("stopped"):
        yield f"Training was ended early, after step {stopped['step']}: {stopped['reason']}."
    if (collapse := last.get("collapse") or {}).get("state") == "collapsed":
        yield f"The collapse rule was met at step {collapse['step']}: {collapse['reason']}."


def _prompt(record: TrainingRecord | None) -> Iterator[str]:
    if record is not None:
        yield "It was trained on one user turn of this text:"
        yield "\n".join(f"    {line}" for line in (record.prompt_template + record.thinking_prefix).splitlines())


def _data(last: Summary, record: TrainingRecord | None) -> str:
    data, counts, batches = last["data"], last["data"]["selection"], last["data"]["batches"]
    dropped = {**counts["dropped"], **batches["dropped"]}
    left_out = "; ".join(f"{number:,} × {reason}" for reason, number in dropped.items())
    return (
        f"{_named((record and record.data) or data['source'])}: {counts['rows_read']:,} rows, of which"
        f" {counts['demonstrations']:,} gave a right trace and {counts['pairs']:,} a right and a wrong one; trained on"
        f" {batches['train']:,} examples with {batches['train_completion_tokens']:,} tokens of completions. Left out:"
        f" {left_out or 'none'}. Digest `{data['digest'][:16]}`."
    )


def _recipe(stages: Sequence[Summary]) -> str:
    lines = ["| stage | objective | learning rate | steps | batch | seed |", "|---" * 6 + "|"]
    for stage in stages:
        cells = ["–"] * 5
        if config := stage.get("config"):
            numbers = (config["optimizer"].get("lr"), stage.get("steps"), config["data"]["batch_size"], config["seed"])
            cells = [objective(config["loss"]), *("–" if number is None else str(number) for number in numbers)]
        lines.append(f"| {' | '.join([stage['name'], *cells])} |")
    return "\n".join(lines)


def _scores(last: Summary, metrics: Summary | None) -> Iterator[str]:
    if not metrics:
        yield "This state was not evaluated."
        return
    drawn = last["evaluation"]["protocol"]["sampling"]
    samples, problems = (int(metrics[f"num_{what}"]["value"]) for what in ("samples", "problems"))
    yield (
        f"On {_benchmark(last)}: {problems} problems × {samples} samples, temperature {drawn['temperature']:g},"
        f" top-p {drawn['top_p']:g}, up to {drawn['max_new_tokens']:,} tokens."
    )
    known = {**_SCORES, f"pass_at_{samples}": f"pass@{samples}"}
    titles = {key: title for key, title in known.items() if key in metrics}
    lines = [f"| | {' | '.join(titles.values())} |", "|---" * (1 + len(titles)) + "|"]
    for row, scored in (("this model", metrics), ("before training", (last.get("baseline") or {}).get("metrics"))):
        found = [scored[key] for key in titles] if scored else []
        cells = [f"{one['value']:.3f} ({one['ci_low']:.3f} to {one['ci_high']:.3f})" for one in found]
        lines += [f"| {row} | {' | '.join(cells)} |"] if cells else []
    yield "\n".join([*lines, "", "In brackets: 95 % intervals over problems."])


def _command(last: Summary) -> Iterator[str]:
    overrides = [_public(override) for override in last["overrides"] if not override.startswith(_PRIVATE)]
    command = shlex.join(["python", "-m", "redi_lab", *overrides])
    yield f"    {command}"
    versions = [f"{package} {version}" for package, version in last["versions"].items()]
    commit = [f"commit {last['commit']}{' and further changes' * last['commit_is_dirty']}"] if last["commit"] else []
    paths = " `PATH/` is a place on the machine that trained it." if "PATH/" in command else ""
    yield f"Trained with {', '.join([*commit, *versions])}.{paths}"


def _public(override: str) -> str:
    """An override without the folders of absolute paths in it."""
    key, equals, value = override.partition("=")
    bare = value.strip("'\"")
    if re.match(r"[/~]", bare):
        return f"{key}=PATH/{Path(bare).name}"
    return key + equals + re.sub(r"(['\"\[,=])[/~][^'\",\]]*/([^/'\",\]]*)", r"\1PATH/\2", value)


def _named(source: str) -> str:
    """A hub id, or the last part of a path."""
    return f"`{source}`" if is_hub_id(source) else f"`{Path(source).name}`"
