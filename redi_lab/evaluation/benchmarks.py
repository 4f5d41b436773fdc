"""Evaluation problems with their accepted answers, read from JSON files, the Hugging Face hub or a URL.

benchmark = load_file_benchmark(Path("math500.jsonl"), limit=50)
benchmark.digest  # changes with any problem, answer or order: results are keyed by it
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Self, final

from redi_lab.data.jsonl import parse_json, read_jsonl
from redi_lab.errors import UserError

Describe = Callable[[Sequence[str]], Mapping[str, float]]


@final
@dataclass(frozen=True, slots=True)
class EvalProblem:
    """One problem: its identifier, its text, and the answers any of which is right."""

    id: str
    problem: str
    answers: tuple[str, ...]


@final
@dataclass(frozen=True, slots=True)
class Benchmark:
    """Named problems in their order. Build it with `Benchmark.of`, which checks them and computes the digest.

    Attributes:
        name: Short name for metrics and reports; not part of the digest.
        problems: The problems, with unique identifiers.
        digest: SHA-256 over the canonical JSON of the problems.
        describe: From the texts of all completions to further metrics of the benchmark, whatever the verdicts.
    """

    name: str
    problems: tuple[EvalProblem, ...]
    digest: str
    describe: Describe | None = None

    @classmethod
    def of(cls, name: str, problems: Iterable[EvalProblem], describe: Describe | None = None) -> Self:
        """Check the problems and compute their digest.

        Raises:
            UserError: There is no problem, or two share an identifier.
        """
        collected = tuple(problems)
        if not collected:
            raise UserError(f"benchmark {name}: it holds no problem; give rows of {{problem, answer}}")
        first_rows: dict[str, int] = {}
        for row, problem in enumerate(collected, start=1):
            first = first_rows.setdefault(problem.id, row)
            if first != row:
                raise UserError(
                    f"benchmark {name}: rows {first} and {row} share the id {problem.id!r}; make ids unique"
                )
        content = json.dumps([asdict(problem) for problem in collected], sort_keys=True, separators=(",", ":"))
        return cls(name, collected, hashlib.sha256(content.encode()).hexdigest(), describe)


@final
@dataclass(frozen=True, slots=True)
class Columns:
    """Under which keys a row holds its problem and its answer, or a list of accepted answers."""

    problem: str = "problem"
    answer: str = "answer"


def load_file_benchmark(
    path: Path, name: str | None = None, limit: int | None = None, columns: Columns = Columns()
) -> Benchmark:
    """Read a benchmark from JSON lines, or from a `.json` file with a list of rows.

    Each row has `problem` (text), `answer` or `answers` (accepted answers as text or numbers) and optionally `id`;
    a row without one is named by its row number. Other keys are ignored. Blank lines are allowed.

    Args:
        path: The file, UTF-8; JSON lines may be compressed (.jsonl.gz).
        name: Name of the benchmark; the file's stem by default.
        limit: Read only the first rows, at least 1.
        columns: Names for `problem` and `answer` in a file that keeps those of its source.

    Raises:
        UserError: The file cannot be read, or a row is bad: the message names file, row and key.
    """
    _check_limit(limit)
    rows = _listed_rows(path) if path.suffix == ".json" else _lines(path)
    problems = [_problem(row, number, place, columns) for number, place, row in islice(rows, limit)]
    return Benchmark.of(name or path.stem, problems)


def load_hub_benchmark(
    path: str,
    split: str,
    columns: Columns = Columns(),
    name: str | None = None,
    revision: str | None = None,
    config: str | None = None,
    limit: int | None = None,
) -> Benchmark:
    """Load a benchmark through `datasets`: from the Hugging Face hub, from a URL, or from the local cache of either.

    Args:
        path: Dataset repository, "owner/name", or the URL of a JSON file of rows.
        split: Split of a dataset repository.
        columns: Which columns hold problem and answer.
        name: Name of the benchmark; the last part of the path without suffix by default.
        revision: Commit, tag or branch of a dataset repository; the newest by default.
        config: Configuration of a dataset repository, where it has several.
        limit: Keep only the first rows, at least 1.

    Raises:
        UserError: The dataset cannot be loaded (say, offline), lacks a column, or holds a bad row.
    """
    import datasets  # seconds to import, and not needed for local files

    _check_limit(limit)
    is_url = "://" in path
    source = path if is_url else f"{path} (split {split})"
    try:
        if is_url:
            table = datasets.load_dataset("json", data_files=path, split="train")
        else:
            table = datasets.load_dataset(path, config, split=split, revision=revision)
    except Exception as error:  # the hub client raises many unrelated types: offline, gated, missing, malformed
        raise UserError(
            f"benchmark {source} cannot be loaded: {type(error).__name__}: {error}; "
            "without network access give a local file: eval.path=FILE.jsonl"
        ) from error
    missing = [key for key in (columns.problem, columns.answer) if key not in table.column_names]
    if missing:
        raise UserError(f"benchmark {source} has no column {missing}; its columns are {table.column_names}")
    problems = [
        _problem(row, number, f"{source}:{number}", columns) for number, row in enumerate(islice(table, limit), start=1)
    ]
    return Benchmark.of(name or path.rsplit("/", 1)[-1].removesuffix(".json"), problems)


def _check_limit(limit: int | None) -> None:
    if limit is not None and limit < 1:
        raise UserError(f"eval.limit must be at least 1, got {limit}; leave it out for the whole benchmark")


_Rows = Iterator[tuple[int, str, Mapping[str, Any]]]  # row number, place for messages, row


def _lines(path: Path) -> _Rows:
    for place, row in read_jsonl(path):
        yield int(place.rpartition(":")[2]), place, row


def _listed_rows(path: Path) -> _Rows:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"benchmark file {path} cannot be read: {error}; set eval.path to a JSONL file") from error
    rows = parse_json(text, str(path))
    if not isinstance(rows, list):
        raise UserError(f"{path}: must hold a list of rows, got {type(rows).__name__}; JSON lines are named .jsonl")
    for number, row in enumerate(rows, start=1):
        yield number, f"{path}: row {number}", _checked_row(row, f"{path}: row {number}")


def _checked_row(row: object, place: str) -> Mapping[str, Any]:
    if not isinstance(row, dict):
        raise UserError(f"{place}: a row must be a JSON object, got {type(row).__name__}")
    return row


def _problem(row: Mapping[str, Any], number: int, place: str, columns: Columns) -> EvalProblem:
    key = "problem" if "problem" in row else columns.problem
    problem = row.get(key)
    if not isinstance(problem, str) or not problem.strip():
        raise UserError(f"{place}:{key}: must be a non-empty text, got {problem!r:.80}")
    identifier = row.get("id")
    if identifier is None:
        identifier = number
    if isinstance(identifier, bool) or not isinstance(identifier, str | int) or identifier == "":
        raise UserError(f"{place}:id: must be a text or a whole number, got {identifier!r:.80}")
    return EvalProblem(str(identifier), problem, _answers(row, place, columns))


def _answers(row: Mapping[str, Any], place: str, columns: Columns) -> tuple[str, ...]:
    """The accepted answers: of `answers` where present, else of `answer` (one, or a list), else of the column named."""
    key = next((key for key in ("answers", "answer") if row.get(key) is not None), columns.answer)
    value = row.get(key)
    listed = value if isinstance(value, list | tuple) else [value]
    accepted = tuple(str(item) for item in listed if _is_answer(item))
    if not accepted or len(accepted) != len(listed):
        raise UserError(f"{place}:{key}: must be a non-empty text or number, or a list of them, got {value!r:.80}")
    return accepted


def _is_answer(item: object) -> bool:
    if isinstance(item, str):
        return bool(item.strip())
    return isinstance(item, int | float) and not isinstance(item, bool)
