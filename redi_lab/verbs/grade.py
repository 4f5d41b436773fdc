"""Grade a file of predictions: `python -m redi_lab grade FILE.jsonl [prediction=KEY gold=KEY]`.

Every row is written again with `verdict` (right, wrong or unknown) and `reason` beside what it held. Rows are streamed,
so the file may be larger than memory.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import tee
from pathlib import Path

from redi_lab.config.compose import load_config
from redi_lab.config.schema.words import GradeWords, read_words
from redi_lab.data.jsonl import read_jsonl
from redi_lab.errors import UserError
from redi_lab.files import replacing
from redi_lab.grading.grader import Gold, Grader, Verdict
from redi_lab.run.record import results_folder, write_summary
from redi_lab.run.screen import progress_bar

ADDED_KEYS = ("verdict", "reason")


def run_grade(arguments: Sequence[str]) -> Path:
    """The verb: `grade FILE.jsonl [prediction=KEY] [gold=KEY] [answers=WHERE] [workers=N]`.

    Returns:
        The results folder, with graded.jsonl and summary.json.

    Raises:
        UserError: an argument is not allowed, or see `check_rows`.
    """
    names, words, overrides = read_words(GradeWords, arguments)
    if len(names) != 1:
        raise UserError(
            "grade takes one file: redi-lab grade FILE.jsonl [prediction=KEY gold=KEY workers=N answers=WHERE]"
        )
    config = load_config("evaluate", ["checkpoint=.", "name=grade", *overrides], check_paths=False)
    file, keys, limits = Path(names[0]), {"prediction": words.prediction, "gold": words.gold}, config.eval.grader
    num_rows = check_rows(file, **keys)
    with (
        results_folder(config) as folder,
        Grader(words.workers, limits.timeout_seconds, limits.memory_mb, words.answers) as grader,
    ):
        graded = folder / "graded.jsonl"
        tally = grade_file(file, graded, grader, prediction=words.prediction, gold=words.gold, num_rows=num_rows)
        verdicts = {verdict.value: 0 for verdict in Verdict}
        for (verdict, _), count in tally.items():
            verdicts[verdict] += count
        reasons = {f"{verdict}: {reason}": count for (verdict, reason), count in tally.most_common()}
        content = {
            "name": "grade",
            "verb": "grade",
            "file": str(file.absolute()),
            "graded": str(graded),
            "keys": keys,
            "num_rows": num_rows,
            "verdicts": verdicts,
            "reasons": reasons,
            "grader": dict(grader.settings),
        }
        write_summary(folder, config, content)
    for reason, count in reasons.items():
        print(f"{count:>8}  {reason}")
    print(f"Graded:     {num_rows} rows: " + ", ".join(f"{count} {verdict}" for verdict, count in verdicts.items()))
    print(f"Results:    {folder}")
    return folder


def check_rows(file: Path, *, prediction: str, gold: str) -> int:
    """Check every row of a JSONL file before any is graded, and return how many there are.

    Raises:
        UserError: a row lacks a key, holds something else under it, or already has a verdict; or there is no row.
    """
    num_rows = sum(1 for _ in _rows(file, prediction, gold))
    if num_rows == 0:
        raise UserError(f"{file}: holds no rows; expected one JSON object with {prediction} and {gold} on each line")
    return num_rows


def grade_file(
    file: Path, destination: Path, grader: Grader, *, prediction: str, gold: str, num_rows: int | None = None
) -> Counter[tuple[str, str]]:
    """Grade every row of a JSONL file and write the rows with verdict and reason; how often each of these pairs came.

    The destination appears when it is whole.

    Args:
        file: .jsonl or .jsonl.gz.
        destination: the file to write, one row for each row of `file`, in its order.
        grader: does the grading, in its worker processes.
        prediction: the key of the completion or bare answer, a string.
        gold: the key of the accepted answer: a string, a number, or a list of them.
        num_rows: for the progress bar.

    Raises:
        UserError: as `check_rows`.
    """
    tally = Counter[tuple[str, str]]()
    rows, pairs = tee(_rows(file, prediction, gold))
    with replacing(destination) as partial, progress_bar() as progress, partial.open("w", encoding="utf-8") as output:
        task = progress.add_task("Grading", total=num_rows)
        grades = grader.grade_stream((text, accepted) for _, text, accepted in pairs)
        for (values, _, _), made in zip(rows, grades, strict=True):
            added = (made.verdict.value, made.reason)
            output.write(json.dumps(values | dict(zip(ADDED_KEYS, added, strict=True)), ensure_ascii=False) + "\n")
            tally[added] += 1
            progress.advance(task)
    return tally


def _rows(file: Path, prediction: str, gold: str) -> Iterator[tuple[dict[str, object], str, Gold]]:
    """The rows, each with its checked prediction and gold."""
    for where, values in read_jsonl(file):
        for key in ADDED_KEYS:
            if key in values:
                raise UserError(f"{where}:{key}: is there already and would be overwritten; rename or remove it")
        text = _required(values, prediction, where, "prediction")
        if not isinstance(text, str):
            raise UserError(f"{where}:{prediction}: expected a string, got {_kind(text)}")
        yield values, text, _gold(_required(values, gold, where, "gold"), f"{where}:{gold}")


def _required(values: dict[str, object], key: str, where: str, option: str) -> object:
    if key not in values:
        raise UserError(
            f"{where}:{key}: missing; the row has {', '.join(values) or 'no keys'} (name it by {option}=KEY)"
        )
    return values[key]


def _gold(value: object, where: str) -> Gold:
    if isinstance(value, list):
        if not value:
            raise UserError(f"{where}: the list is empty; give one accepted answer or more")
        return [_gold_text(item, where) for item in value]
    return _gold_text(value, where)


def _gold_text(value: object, where: str) -> str:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise UserError(f"{where}: expected a string, a number or a list of them, got {_kind(value)}")
    if not value.strip():
        raise UserError(f"{where}: is empty; give the accepted answer")
    return value


def _kind(value: object) -> str:
    names = {bool: "true or false", dict: "an object", list: "a list", type(None): "null"}
    return names.get(type(value), f"the number {value}")
