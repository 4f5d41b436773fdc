"""Evaluation problems with their accepted answers, read from JSONL files or the Hugging Face hub.

benchmark = load_jsonl_benchmark(Path("math500.jsonl"), limit=50)
benchmark.digest  # changes with any problem, answer or order: results are keyed by it
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Self, final

from redi_lab.errors import UserError


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
    """

    name: str
    problems: tuple[EvalProblem, ...]
    digest: str

    @classmethod
    def of(cls, name: str, problems: Iterable[EvalProblem]) -> Self:
        """Check the problems and compute their digest.

        Raises:
            UserError: There is no problem, or two share an identifier.
        """
        collected = tuple(problems)
        if not collected:
            raise UserError(f"benchmark {name}: it holds no problem")
        first_rows: dict[str, int] = {}
        for row, problem in enumerate(collected, start=1):
            first = first_rows.setdefault(problem.id, row)
            if first != row:
                raise UserError(
                    f"benchmark {name}: rows {first} and {row} share the id {problem.id!r}; make ids unique"
                )
        content = json.dumps([asdict(problem) for problem in collected], sort_keys=True, separators=(",", ":"))
        return cls(name, collected, hashlib.sha256(content.encode()).hexdigest())


def load_jsonl_benchmark(path: Path, name: str | None = None, limit: int | None = None) -> Benchmark:
    """Read a benchmark from JSON lines.

    Each row has `problem` (text), `answer` or `answers` (accepted answers as text or numbers) and optionally `id`;
    a row without one is named by its row number. Other keys are ignored. Blank lines are allowed.

    Args:
        path: The file, UTF-8.
        name: Name of the benchmark; the file's stem by default.
        limit: Read only the first rows, at least 1.

    Raises:
        UserError: The file cannot be read, or a row is bad: the message names file, row and key.
    """
    _check_limit(limit)
    try:
        # Not splitlines: it also breaks at U+2028, which JSON allows inside a string.
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"benchmark file {path} cannot be read: {error}; set eval.path to a JSONL file") from error
    numbered = ((number, line) for number, line in enumerate(lines, start=1) if line.strip())
    problems = [
        _problem(_row(line, f"{path}:{number}"), number, f"{path}:{number}") for number, line in islice(numbered, limit)
    ]
    return Benchmark.of(name or path.stem, problems)


def load_hub_benchmark(
    repo_id: str,
    split: str,
    problem_key: str,
    answer_key: str,
    revision: str | None = None,
    config: str | None = None,
    limit: int | None = None,
) -> Benchmark:
    """Load a benchmark from the Hugging Face hub (or its local cache) through `datasets`.

    Args:
        repo_id: Dataset repository, "owner/name"; its last part names the benchmark.
        split: Split name.
        problem_key: Column of the problem's text.
        answer_key: Column of the answer, or of a list of accepted answers.
        revision: Commit, tag or branch; the newest by default.
        config: Configuration of the dataset, where it has several.
        limit: Keep only the first rows, at least 1.

    Raises:
        UserError: The dataset cannot be loaded (say, offline), lacks a column, or holds a bad row.
    """
    import datasets  # seconds to import, and not needed for local files

    _check_limit(limit)
    source = f"{repo_id} (split {split})"
    try:
        table = datasets.load_dataset(repo_id, config, split=split, revision=revision)
    except Exception as error:  # the hub client raises many unrelated types: offline, gated, missing, malformed
        raise UserError(
            f"benchmark {source} cannot be loaded from the hub: {type(error).__name__}: {error}; "
            "without network access give a local file: eval.path=FILE.jsonl"
        ) from error
    missing = [key for key in (problem_key, answer_key) if key not in table.column_names]
    if missing:
        raise UserError(f"benchmark {source} has no column {missing}; its columns are {table.column_names}")
    problems = []
    for number, row in enumerate(islice(table, limit), start=1):
        renamed = {"problem": row[problem_key], "answer": row[answer_key], "id": row.get("id")}
        problems.append(_problem(renamed, number, f"{source}:{number}"))
    return Benchmark.of(repo_id.rsplit("/", 1)[-1], problems)


def _check_limit(limit: int | None) -> None:
    if limit is not None and limit < 1:
        raise UserError(f"eval.limit must be at least 1, got {limit}; leave it out for the whole benchmark")


def _row(line: str, place: str) -> Mapping[str, Any]:
    try:
        row = json.loads(line)
    except (json.JSONDecodeError, RecursionError) as error:
        raise UserError(f"{place}: not valid JSON: {error}") from error
    if not isinstance(row, dict):
        raise UserError(f"{place}: a row must be a JSON object, got {type(row).__name__}")
    return row


def _problem(row: Mapping[str, Any], number: int, place: str) -> EvalProblem:
    problem = row.get("problem")
    if not isinstance(problem, str) or not problem.strip():
        raise UserError(f"{place}:problem: must be a non-empty text, got {problem!r:.80}")
    identifier = row.get("id")
    if identifier is None:
        identifier = number
    if isinstance(identifier, bool) or not isinstance(identifier, str | int) or identifier == "":
        raise UserError(f"{place}:id: must be a text or a whole number, got {identifier!r:.80}")
    return EvalProblem(str(identifier), problem, _answers(row, place))


def _answers(row: Mapping[str, Any], place: str) -> tuple[str, ...]:
    """The accepted answers: of `answers` where present, else of `answer` (one, or a list)."""
    key = "answers" if row.get("answers") is not None else "answer"
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
