"""From raw generations to D_SFT and D_Pref: `python -m redi_lab curate data=openr1_math data.path=FILE`.

The results folder gets sft.parquet, pairs.parquet, negatives.parquet, report.json (where every row and generation went)
and manifest.json (hashes of what went in and came out, options, versions). The first four are a function of the input's
content and the options, and are kept under `paths.cache_dir`: the same call again copies them.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, final

import filelock
from omegaconf import DictConfig, OmegaConf

from redi_lab.curation.account import Account
from redi_lab.curation.curator import RowResult, RowRules
from redi_lab.curation.filters import Limits, SeenProblems
from redi_lab.curation.parallel import map_ordered
from redi_lab.curation.writer import CuratedWriter
from redi_lab.data.curated import NEGATIVES_FILE, PAIRS_FILE, SFT_FILE
from redi_lab.data.table_source import TableSource
from redi_lab.data.traces import Dropped, Problem
from redi_lab.errors import UserError
from redi_lab.files import file_digest, naming
from redi_lab.redaction import redacted
from redi_lab.run.arguments import check_arguments
from redi_lab.run.build import make_source
from redi_lab.run.code import code_digest
from redi_lab.run.record import quieten_libraries, results_folder, write_summary
from redi_lab.run.screen import progress_bar
from redi_lab.verbs.curate.grading import graded_chunks
from redi_lab.verbs.curate.report import print_report
from redi_lab.verbs.curate.worker import WorkerPlan

REPORT_FILE = "report.json"
MANIFEST_FILE = "manifest.json"

_OUTPUTS = (SFT_FILE, PAIRS_FILE, NEGATIVES_FILE, REPORT_FILE)
_HASHES_FILE = "hashes.json"
_LIBRARIES = ("pyarrow", "numpy", "transformers", "tokenizers", "rapidfuzz", "datasketch", "math-verify")
_CODE = ("curation", "data", "grading")
_CHUNK_ROWS = 64
_CHUNK_CHARACTERS = 2**20  # a few chunks a worker are in memory at a time
_NOT_OPTIONS = ("num_workers", "benchmarks", "tokenizer", "grading")  # no effect, or known by their content


@final
@dataclass(frozen=True)
class Recipe:
    """One curation: what it reads and how, known before anything is read but hashes."""

    source: TableSource
    plan: WorkerPlan
    config: DictConfig
    identity: dict[str, Any]
    """Everything that decides the result, by content."""

    @property
    def key(self) -> str:
        """Under which the result is kept."""
        return hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()[:32]


def run_curation(config: DictConfig) -> Path:
    """Curate, or copy the result of the very same curation; write a results folder.

    Raises:
        UserError: the data, the tokenizer or a benchmark cannot be read.
    """
    quieten_libraries()
    recipe = make_recipe(config)
    with results_folder(config) as folder:
        return _run(config, recipe, folder)


def _run(config: DictConfig, recipe: Recipe, folder: Path) -> Path:
    cache = Path(config.paths.cache_dir).absolute() / "curations"
    cache.mkdir(parents=True, exist_ok=True)
    kept = cache / recipe.key
    with filelock.FileLock(cache / f"{recipe.key}.lock"):
        is_reused = _is_intact(kept)
        if not is_reused:
            _curate_into(recipe, kept)
        hashes = {name: file_digest(Path(shutil.copyfile(kept / name, folder / name))) for name in _OUTPUTS}
    report = json.loads((folder / REPORT_FILE).read_text(encoding="utf-8"))
    _write_json(folder / MANIFEST_FILE, _manifest(recipe, hashes, report))
    content = {
        "name": config.name,
        "verb": "curate",
        "metrics": {**report["written"], "rows_read": report["rows"]["read"], "rows_used": report["rows"]["used"]},
        "fingerprint": recipe.key,
        "is_reused": is_reused,
    }
    write_summary(folder, config, content)
    if is_reused:
        print(f"The same content and options were curated before: copied from {kept}")
    print_report(recipe.source.table().source, report)
    return folder


def make_recipe(config: DictConfig) -> Recipe:
    """The curation that a configuration asks for.

    Raises:
        UserError: the data group holds no generations, or something is not there.
    """
    check_arguments(config)
    source = make_source(config)
    if not isinstance(source, TableSource):
        target = config.data.source._target_
        raise UserError(f"data.source._target_={target}: nothing to curate; choose openr1_math, openr1_220k or jsonl")
    c, data = config.curation, config.data
    rules = RowRules(
        unknown=c.unknown,
        require_complete=c.require_complete,
        require_answer=c.require_answer,
        demonstrations=c.demonstrations,
        negatives=c.negatives,
        pair_order=c.pair_order,
        pairs_per_problem=c.pairs_per_problem,
        problem_duplicates=c.problem_duplicates,
        generation_duplicates=c.generation_duplicates,
        near_threshold=c.near_threshold,
        limits=Limits(data.max_prompt_tokens, data.max_completion_tokens, data.max_sequence_tokens),
        opening=data.thinking_prefix,
        seed=config.seed,
    )
    plan = WorkerPlan(
        rules,
        c.tokenizer,
        data.prompt_template,
        data.thinking_prefix,
        tuple(map(str, c.benchmarks)),
        c.ngram,
        c.grading.answers,
    )
    options = OmegaConf.to_container(c)
    assert isinstance(options, dict)
    identity = {
        "source": source.digest(),
        "options": {k: v for k, v in options.items() if k not in _NOT_OPTIONS},
        "grading": {"answers": c.grading.answers} if c.grader == "never" else options["grading"],
        "tokenizer": None if c.tokenizer is None else _tokenizer_hash(plan),
        "prompt_template": data.prompt_template,
        "thinking_prefix": data.thinking_prefix,
        "limits": [data.max_prompt_tokens, data.max_completion_tokens, data.max_sequence_tokens],
        "benchmarks": [[file, file_digest(Path(file))] for file in plan.benchmarks],
        "seed": config.seed,
        "code": code_digest(*_CODE),
        "versions": {library: version(library) for library in _LIBRARIES},
    }
    return Recipe(source, plan, config, identity)


def curate_rows(recipe: Recipe, writer: CuratedWriter) -> Account:
    """Curate every row of the source, in order, and write what it gives.

    Args:
        recipe: what and how.
        writer: gets the rows as they come.

    Returns:
        Where everything went.
    """
    settings = recipe.config.curation
    account, seen = Account(), SeenProblems(settings.near_threshold)
    with progress_bar() as progress:
        task = progress.add_task("Curating", total=recipe.source.table().num_rows())
        chunks = graded_chunks(_chunks(recipe.source.problems()), settings.grader, settings.grading)
        for results in map_ordered(recipe.plan, chunks, settings.num_workers):
            for result in results:
                final = _without_repetition(result, seen, account.rows)
                account.add(final)
                writer.add(final)
            progress.update(task, completed=account.rows)
    return account


def _curate_into(recipe: Recipe, kept: Path) -> None:
    """Fill `kept`, by way of a folder of another name: what is named by its key is whole."""
    partial = kept.with_suffix(".partial")
    for stale in (partial, kept):
        shutil.rmtree(stale, ignore_errors=True)
    partial.mkdir()
    try:
        with naming(kept):
            with CuratedWriter(partial) as writer:
                account = curate_rows(recipe, writer)
            unit = "characters" if recipe.plan.tokenizer is None else "tokens"
            _write_json(partial / REPORT_FILE, account.as_dict(unit))
            _write_json(partial / _HASHES_FILE, {name: file_digest(partial / name) for name in _OUTPUTS})
            os.replace(partial, kept)
    except Exception:
        shutil.rmtree(partial)
        raise


def _is_intact(kept: Path) -> bool:
    """Whether a finished result is there, with the bytes that it had when it was finished."""
    try:
        hashes = json.loads((kept / _HASHES_FILE).read_text(encoding="utf-8"))
        return all(file_digest(kept / name) == hashes[name] for name in _OUTPUTS)
    except (OSError, ValueError, KeyError):  # never finished, deleted, or damaged: curate again
        return False


def _chunks(problems: Iterable[Problem | Dropped]) -> Iterator[list[tuple[int, Problem | Dropped]]]:
    """Rows in groups that are worth sending to a process, and small in memory."""
    chunk: list[tuple[int, Problem | Dropped]] = []
    characters = 0
    for index, problem in enumerate(problems):
        chunk.append((index, problem))
        if isinstance(problem, Problem):
            characters += sum(len(generation.text) for generation in problem.generations)
        if len(chunk) >= _CHUNK_ROWS or characters >= _CHUNK_CHARACTERS:
            yield chunk
            chunk, characters = [], 0
    if chunk:
        yield chunk


def _without_repetition(result: RowResult, seen: SeenProblems, row: int) -> RowResult:
    if result.row_reason is not None:
        return result
    reason = seen.reason_to_drop(result.key, str(row))
    return result if reason is None else result.dropped(reason)


def _tokenizer_hash(plan: WorkerPlan) -> str:
    """By content: the same tokenizer in another folder gives the same tokens."""
    encoder = plan.encoder()
    assert encoder is not None
    tokenizer = encoder.tokenizer
    content = [tokenizer.backend_tokenizer.to_str(), tokenizer.chat_template, encoder.end_of_turn_id]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _manifest(recipe: Recipe, hashes: dict[str, str], report: dict[str, Any]) -> dict[str, Any]:
    table = recipe.source.table()
    written = report["written"]
    rows = {SFT_FILE: written["demonstrations"], PAIRS_FILE: written["pairs"], NEGATIVES_FILE: written["negatives"]}
    return {
        "key": recipe.key,
        "input": {"source": table.source, "content": table.digest(), "rows": report["rows"]["read"]},
        "tokenizer": recipe.plan.tokenizer,
        "outputs": {
            name: {"sha256": digest} | ({"rows": rows[name]} if name in rows else {}) for name, digest in hashes.items()
        },
        "decided_by": recipe.identity,
    }


def _write_json(file: Path, content: dict[str, Any]) -> None:
    file.write_text(json.dumps(redacted(content), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
