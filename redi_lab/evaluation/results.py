"""Results of evaluations on disk, keyed by everything that decides them, so that a stale one is never read as new.

A result is two files in one folder: `<key>.json` (protocol and metrics) and `<key>.jsonl` (one row a completion).
The key covers the checkpoint's content, the protocol and the benchmark's content.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, final

from redi_lab.errors import UserError
from redi_lab.files import file_digest, write_text

# Everything in a Hugging Face folder that can change a completion; optimiser states and logs beside it cannot.
_CHECKPOINT_FILES = (
    "config.json",
    "generation_config.json",
    "*.safetensors",
    "*.safetensors.index.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template*",
    "vocab.*",
    "merges.txt",
    "spiece.model",
    "sentencepiece*.model",
)


@final
@dataclass(frozen=True, slots=True)
class ResultRow:
    """One graded completion: problem id, sample index, what was generated, and the grade."""

    id: str
    sample: int
    text: str
    finish_reason: str
    verdict: str
    reason: str
    answer: str | None
    num_tokens: int


@final
@dataclass(frozen=True, slots=True)
class EvaluationResult:
    """One checkpoint on one benchmark under one protocol.

    Attributes:
        key: See `evaluation_key`.
        protocol: Sampling, engine, grader, prompts and versions, as JSON values.
        benchmark: Name of the benchmark.
        benchmark_digest: Digest of its problems and answers.
        checkpoint_hash: See `checkpoint_hash`.
        metrics: Finite numbers by name, `pass_at_1` among them.
        rows: Every completion, by problem, then sample.
    """

    key: str
    protocol: Mapping[str, Any]
    benchmark: str
    benchmark_digest: str
    checkpoint_hash: str
    metrics: Mapping[str, float]
    rows: tuple[ResultRow, ...]


def evaluation_key(checkpoint_hash: str, protocol: Mapping[str, Any], benchmark_digest: str) -> str:
    """The name of a result, from all that decides it: 32 hexadecimal digits of `content_digest`."""
    return content_digest([checkpoint_hash, protocol, benchmark_digest])[:32]


def content_digest(content: object) -> str:
    """SHA-256 over the canonical JSON of a JSON value; NaN and infinities are refused.

    Raises:
        TypeError: The content is not JSON.
        ValueError: A number is not finite.
    """
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def checkpoint_hash(folder: Path) -> str:
    """SHA-256 over names and contents of the files of a Hugging Face folder that can change a completion.

    Raises:
        UserError: `*.safetensors` or `config.json` is missing.
    """
    files = sorted({path for pattern in _CHECKPOINT_FILES for path in folder.glob(pattern) if path.is_file()})
    for needed in ("config.json", "*.safetensors"):
        if not any(path.match(needed) for path in files):
            raise UserError(f"checkpoint {folder} is not a Hugging Face folder with weights: it has no {needed}")
    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{path.name}\0{file_digest(path)}\n".encode())
    return digest.hexdigest()


def save_result(folder: Path, result: EvaluationResult) -> Path:
    """Write both files atomically and return the path of the first; the rows come first, so it vouches for them."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = "".join(json.dumps(asdict(row)) + "\n" for row in result.rows)
    head = {name: getattr(result, name) for name in _HEAD}
    head["num_rows"], head["rows_sha256"] = len(result.rows), hashlib.sha256(rows.encode()).hexdigest()
    write_text(folder / f"{result.key}.jsonl", rows, is_synced=True)
    path = folder / f"{result.key}.json"
    write_text(path, json.dumps(head, indent=2, allow_nan=False) + "\n", is_synced=True)
    return path


_HEAD = ("key", "protocol", "benchmark", "benchmark_digest", "checkpoint_hash", "metrics")


def load_result(folder: Path, key: str) -> EvaluationResult | None:
    """Read a stored result.

    Returns:
        The result; None where there is none, or, with a warning, where its files are damaged or belong to another
        key: the evaluation must then be repeated.
    """
    path = folder / f"{key}.json"
    if not path.exists():
        return None
    try:
        return _read_result(path, key)
    except (OSError, ValueError, KeyError, TypeError) as error:
        warnings.warn(
            f"stored result {path} is not usable and will be computed again: {type(error).__name__}: {error}",
            stacklevel=2,
        )
        return None


def _read_result(path: Path, key: str) -> EvaluationResult:
    head = json.loads(path.read_text(encoding="utf-8"))
    if head["key"] != key or key != evaluation_key(head["checkpoint_hash"], head["protocol"], head["benchmark_digest"]):
        raise ValueError("its content does not belong to its key")
    rows = path.with_suffix(".jsonl").read_bytes()
    if hashlib.sha256(rows).hexdigest() != head["rows_sha256"]:
        raise ValueError("its rows have changed since they were written")
    parsed = tuple(ResultRow(**json.loads(line)) for line in rows.decode().split("\n") if line)
    return EvaluationResult(**{name: head[name] for name in _HEAD}, rows=parsed)
