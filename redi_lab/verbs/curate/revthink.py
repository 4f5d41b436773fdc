"""Three tasks from forward and backward reasoning: `python -m redi_lab curate revthink data=jsonl data.path=FILE`.

The results folder gets two files for `data=jsonl`: `sft.jsonl`, whose weights give each task a third of the SFT loss,
and `backward.jsonl`, backward problems with consistent and inconsistent traces, for REDI. `redi_lab.curation.revthink`
says which rows go where. Embedded tasks (`data=arithmetic`, `data=chains`) bring backward problems by construction.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from redi_lab.config.compose import load_config
from redi_lab.config.schema.words import RevThinkWords, split_words
from redi_lab.curation.revthink import INCONSISTENT, TASKS, ReverseRow, Task, ThreeTasks, equal_weights, read_row
from redi_lab.data.backward import backward_rows
from redi_lab.data.readers import TraceFileSource
from redi_lab.data.rows import Row
from redi_lab.data.simulated import SimulatedSource
from redi_lab.data.tokenization import TraceEncoder
from redi_lab.data.traces import HeldOut
from redi_lab.errors import UserError
from redi_lab.files import write_text
from redi_lab.grading.grader import Verdict
from redi_lab.run.arguments import check_arguments
from redi_lab.run.build import make_grader, make_source
from redi_lab.run.record import quieten_libraries, results_folder, write_summary
from redi_lab.run.screen import CONSOLE

SFT_FILE = "sft.jsonl"
BACKWARD_FILE = "backward.jsonl"


def run_revthink(arguments: Sequence[str]) -> Path:
    """The verb.

    Returns:
        The results folder, with sft.jsonl, backward.jsonl and summary.json.

    Raises:
        UserError: a row is not as documented, or none has a right forward and a consistent backward trace.
    """
    words, overrides = split_words(RevThinkWords, arguments)
    config = load_config("curate", ["name=revthink", "curation.grader=always", *overrides])
    quieten_libraries()
    check_arguments(config)
    place, rows = _read(config)
    keys = {name: getattr(words, name) for name in ReverseRow._fields}
    read = [read_row(row, keys) for row in rows]
    tasks = ThreeTasks({task: getattr(words, f"{task}_prompt") for task in TASKS})
    for index, (row, verdict) in enumerate(zip(read, _verdicts(read, config), strict=True)):
        tasks.add(str(index), row, verdict)
    if not tasks.examples["backward"]:
        counts = dict(tasks.dropped + tasks.forward_alone)
        raise UserError(f"{place}: no row has a right forward and a consistent backward trace: {counts}; give some")
    lengths = {task: _length(tasks, task, config) for task in TASKS}
    weights = equal_weights(lengths)
    contrasts = list(tasks.contrasts())
    with results_folder(config) as folder:
        write_text(folder / SFT_FILE, _lines(_demonstration(tasks, task, weights[task]) for task in TASKS))
        write_text(folder / BACKWARD_FILE, _lines([map(_contrast, contrasts)]))
        unit = "characters" if config.curation.tokenizer is None else "tokens"
        made = {
            task: {"examples": len(tasks.examples[task]), unit: lengths[task], "weight": weights[task]}
            for task in TASKS
        }
        metrics: dict[str, Any] = {
            "rows": tasks.num_rows,
            "rows_with_three_tasks": tasks.num_whole,
            "forward_alone": dict(tasks.forward_alone),
            "dropped": dict(tasks.dropped),
            "consistent_share": tasks.num_whole / (tasks.num_whole + tasks.forward_alone[INCONSISTENT]),
            "backward_problems_with_both": len(contrasts),
        }
        content = {"name": config.name, "verb": "curate revthink", "source": place, "tasks": made, "metrics": metrics}
        write_summary(folder, config, content)
    for task, numbers in made.items():
        shown = ", ".join(f"{name} {number:,.6g}" for name, number in numbers.items())
        CONSOLE.print(f"{task.replace('_', ' ')}: {shown}", highlight=False)
    for name, number in metrics.items():
        counts = number if isinstance(number, dict) else {"": number}
        for why, count in counts.items():
            CONSOLE.print(f"{name.replace('_', ' ')}{why and f', {why}'}: {count:,}", highlight=False)
    print(f"Results:    {folder}")
    return folder


def _read(config: DictConfig) -> tuple[str, Iterable[Row]]:
    """The rows, and what they are called."""
    source = make_source(config)
    if isinstance(source, TraceFileSource):
        return source.table().source, source.table().rows()
    if isinstance(source, SimulatedSource):
        return source.name, (Row(f"{source.name}:{n}", row) for n, row in enumerate(backward_rows(source), start=1))
    raise UserError(
        f"data.source._target_={config.data.source._target_}: no rows of forward and backward reasoning; choose"
        " data=jsonl, arithmetic or chains"
    )


def _verdicts(rows: Sequence[ReverseRow], config: DictConfig) -> Iterator[Verdict | None]:
    """What our grader says of forward traces; None where there is no answer, or it is not to be asked."""
    asked = [
        (row.completion, HeldOut(str(index), row.problem, (row.answer,)))
        for index, row in enumerate(rows)
        if row.answer is not None and config.curation.grader != "never"
    ]
    found: dict[str, Verdict] = {}
    if asked:
        with make_grader(config) as grader:
            grades = grader.grade_all(asked)
        found = {problem.id: grade.verdict for (_, problem), grade in zip(asked, grades, strict=True)}
    return (found.get(str(index)) for index in range(len(rows)))


def _length(tasks: ThreeTasks, task: Task, config: DictConfig) -> int:
    """Of all completions of a task, as training counts them, or in characters where there is no tokenizer."""
    examples = tasks.examples[task]
    if config.curation.tokenizer is None:
        return sum(len(completion) for _, completion in examples)
    from redi_lab.backbone.hub import load_tokenizer  # imports transformers

    tokenizer = load_tokenizer(config.curation.tokenizer, key="curation.tokenizer")
    encoder = TraceEncoder(tokenizer, thinking_prefix=config.data.thinking_prefix)
    encoded = encoder.encode_all([(name, *example) for example, name in examples.items()])
    return sum(sequence.completion_length for sequence in encoded)


def _demonstration(tasks: ThreeTasks, task: Task, weight: float) -> Iterator[dict[str, Any]]:
    """The rows of a task. They have no answer: a problem held out from one task would stay in the others."""
    for (prompt, completion), name in tasks.examples[task].items():
        generations = [{"text": completion, "correct": True}]
        yield {"id": name, "problem": prompt, "task": task, "weight": weight, "generations": generations}


def _contrast(contrast: tuple[str, list[str], list[str]]) -> dict[str, Any]:
    prompt, right, wrong = contrast
    generations = [{"text": text, "correct": True} for text in right]
    generations += [{"text": text, "correct": False, "error": "inconsistent"} for text in wrong]
    return {"problem": prompt, "generations": generations}


def _lines(parts: Iterable[Iterable[dict[str, Any]]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for part in parts for row in part)
