"""Evaluation problems with their accepted answers, read from JSON files, the Hugging Face hub or a URL.

benchmark = load_file_benchmark(Path("math500.jsonl"), limit=50)
benchmark.digest  # changes with any problem, answer or order: results are keyed by it
"""

from __future__ import annotations

import hashlib
import json
import re
import string
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, Self, final

from redi_lab.data.jsonl import parse_json, read_jsonl
from redi_lab.errors import UserError

Describe = Callable[[Sequence[str], Sequence[str]], Mapping[str, float]]
_ROW_NUMBER = re.compile(r"\d+$")  # at the end of a row's place


class Keys(NamedTuple):
    """Under which keys a row holds its problem, its answer or list of accepted answers, wrong choices, and its kind.

    A row need not have a kind. Its own `problem`, `answers` and `answer` go before the first two, unless the problem's
    is strict.
    """

    problem: str = "problem"
    answer: str = "answer"
    wrong: tuple[str, ...] = ()
    is_strict: bool = False
    kind: str | None = None

    @property
    def needed(self) -> tuple[str, ...]:
        """Those that a row must have."""
        return (self.problem, self.answer, *self.wrong)


@final
@dataclass(frozen=True, slots=True)
class EvalProblem:
    """One problem: its identifier, its text, and the answers any of which is right."""

    id: str
    problem: str
    answers: tuple[str, ...]
    kind: str | None = None
    """What it counts as where scores are told by kind; no part of the digest."""


@final
@dataclass(frozen=True, slots=True)
class Benchmark:
    """Named problems in their order. Build it with `Benchmark.of`, which checks them and computes the digest.

    Attributes:
        name: Short name for metrics and reports; not part of the digest.
        problems: The problems, with unique identifiers.
        digest: SHA-256 over the canonical JSON of the problems.
        describe: From the texts of all completions, and of the problem of each, to further metrics of the benchmark,
            whatever the verdicts.
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
            raise UserError(f"benchmark {name}: it has no problems; give rows of {{problem, answer}}")
        first_rows: dict[str, int] = {}
        for row, problem in enumerate(collected, start=1):
            first = first_rows.setdefault(problem.id, row)
            if first != row:
                raise UserError(
                    f"benchmark {name}: rows {first} and {row} share the id {problem.id!r}; make ids unique"
                )
        rows = [{"id": one.id, "problem": one.problem, "answers": one.answers} for one in collected]
        content = json.dumps(rows, sort_keys=True, separators=(",", ":"))
        return cls(name, collected, hashlib.sha256(content.encode()).hexdigest(), describe)


def load_file_benchmark(
    path: Path, name: str | None = None, limit: int | None = None, keys: Keys | None = None
) -> Benchmark:
    """Read a benchmark from JSON lines, or from a `.json` file with a list of rows.

    Each row has `problem` (a string), `answer` or `answers` (accepted answers, strings or numbers) and optionally `id`;
    a row without one is named by its row number. Other keys are ignored. Blank lines are allowed.

    Args:
        path: The file, UTF-8; JSON lines may be compressed (.jsonl.gz).
        name: Name of the benchmark; the file's stem by default.
        limit: Read only the first rows.
        keys: What a file that keeps the keys of its source has in place of `problem` and `answer`.

    Raises:
        UserError: The file cannot be read, or a row is bad: the message names file, row and key.
    """
    rows = _listed_rows(path) if path.suffix == ".json" else read_jsonl(path)
    return Benchmark.of(name or path.stem, (_problem(row, place, keys or Keys()) for place, row in islice(rows, limit)))


def load_hub_benchmark(
    path: str,
    split: str,
    keys: Keys | None = None,
    name: str | None = None,
    revision: str | None = None,
    config: str | None = None,
    limit: int | None = None,
) -> Benchmark:
    """Load a benchmark through `datasets`: from the Hugging Face hub, from a URL, or from the local cache of either.

    Args:
        path: Dataset repository, "owner/name", or the URL of a JSON file of rows.
        split: Split of a dataset repository.
        keys: Columns of problem, answer and wrong choices.
        name: Name of the benchmark; the last part of the path without suffix by default.
        revision: Commit, tag or branch of a dataset repository; the newest by default.
        config: Configuration of a dataset repository that has several.
        limit: Keep only the first rows.

    Raises:
        UserError: The dataset cannot be loaded (say, offline), is missing a column, or has a bad row.
    """
    import datasets  # seconds to import, and not needed for local files

    keys, is_url = keys or Keys(), "://" in path
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
    missing = [key for key in keys.needed if key not in table.column_names]
    if missing:
        raise UserError(f"benchmark {source} has no column {missing}; its columns are {table.column_names}")
    rows = enumerate(islice(table, limit), start=1)
    problems = (_problem(row, f"{source}:{number}", keys) for number, row in rows)
    return Benchmark.of(name or path.rsplit("/", 1)[-1].removesuffix(".json"), problems)


def _listed_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of a JSON list, with their places."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"benchmark file {path} cannot be read: {error}; set eval.path to a JSONL file") from error
    rows = parse_json(text, str(path))
    if not isinstance(rows, list):
        raise UserError(f"{path}: must hold a list of rows, got {type(rows).__name__}; name JSON lines .jsonl")
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise UserError(f"{path}: row {number}: must be a JSON object, got {type(row).__name__}; correct the row")
        yield f"{path}: row {number}", row


def _problem(row: Mapping[str, Any], place: str, keys: Keys) -> EvalProblem:
    key = "problem" if "problem" in row and not keys.is_strict else keys.problem
    problem = row.get(key)
    if not isinstance(problem, str) or not problem.strip():
        raise UserError(f"{place}:{key}: must be a non-empty string, got {problem!r:.80}")
    identifier = row.get("id")
    if identifier is None:
        identifier = _ROW_NUMBER.findall(place)[0]
    if isinstance(identifier, bool) or not isinstance(identifier, str | int) or identifier == "":
        raise UserError(f"{place}:id: must be a string or a whole number, got {identifier!r:.80}")
    # Accepted answers: `answers` if present, else `answer` (one, or a list), else the key of the source.
    key = next((key for key in ("answers", "answer") if row.get(key) is not None), keys.answer)
    value = row.get(key)
    listed = value if isinstance(value, list | tuple) else [value]
    if not listed or not all(_is_answer(item) for item in listed):
        raise UserError(f"{place}:{key}: must be a non-empty string or number, or a list of them, got {value!r:.80}")
    answers = tuple(map(str, listed))
    if keys.wrong:
        problem, answers = _with_choices(problem, answers, row, place, keys.wrong)
    kind = row.get(keys.kind) if keys.kind else None
    return EvalProblem(str(identifier), problem, answers, None if kind is None else str(kind))


def _with_choices(
    problem: str, answers: tuple[str, ...], row: Mapping[str, Any], place: str, wrong: Sequence[str]
) -> tuple[str, tuple[str, ...]]:
    """The problem with all choices below it, lettered in an order that follows from the texts, and the right letter."""
    for key in wrong:
        if not isinstance(row.get(key), str) or not row[key].strip():
            raise UserError(f"{place}:{key}: must be a non-empty string, got {row.get(key)!r:.80}")
    if len(answers) > 1:
        raise UserError(f"{place}: has {len(answers)} accepted answers beside wrong choices; give one")
    choices = [answers[0].strip(), *(row[key].strip() for key in wrong)]
    if len(set(choices)) < len(choices):
        raise UserError(f"{place}: two of its choices are the same; correct the row")
    choices.sort(key=lambda choice: hashlib.sha256(f"{problem}\0{choice}".encode()).digest())
    lines = [f"{letter}) {choice}" for letter, choice in zip(string.ascii_uppercase, choices, strict=False)]
    right = string.ascii_uppercase[choices.index(answers[0].strip())]
    return "\n".join([problem.rstrip() + "\n", *lines]), (right,)


def _is_answer(item: object) -> bool:
    if isinstance(item, str):
        return bool(item.strip())
    return isinstance(item, int | float) and not isinstance(item, bool)
