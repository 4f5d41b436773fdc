"""From raw generations to D_SFT and D_Pref: `python -m redi_lab curate data=openr1_math data.path=FILE`.

The results folder gets sft.parquet, pairs.parquet, negatives.parquet, report.json (where every row and generation went)
and manifest.json (hashes of inputs and outputs, options, versions). The bytes of the first four are a function of the
content of the input, the options and the versions.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, final

from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table

from redi_lab.curation.account import Account
from redi_lab.curation.curator import RowResult, RowRules, given_up
from redi_lab.curation.duplicates import SeenTexts
from redi_lab.curation.parallel import map_ordered
from redi_lab.data.curated import NEGATIVES_FILE, PAIRS_FILE, SFT_FILE, CuratedWriter
from redi_lab.data.table_source import TableSource
from redi_lab.data.traces import Dropped, Problem
from redi_lab.errors import UserError
from redi_lab.files import file_digest
from redi_lab.redaction import redacted
from redi_lab.run.arguments import check_arguments
from redi_lab.run.build import grader_maker, make_grader, make_source
from redi_lab.run.record import quieten_libraries, results_folder, write_summary
from redi_lab.run.screen import progress_bar
from redi_lab.verbs.curate.worker import Chunk, WorkerPlan, graded_chunks

REPORT_FILE = "report.json"
MANIFEST_FILE = "manifest.json"

_OUTPUTS = (SFT_FILE, PAIRS_FILE, NEGATIVES_FILE, REPORT_FILE)
_LIBRARIES = ("pyarrow", "numpy", "transformers", "tokenizers", "rapidfuzz", "datasketch", "math-verify")
_CHUNK_ROWS = 64
_CHUNK_CHARACTERS = 2**20  # a few chunks a worker are in memory at a time
_MOST_MATCHES = 10
_NOT_OPTIONS = ("num_workers", "benchmarks", "tokenizer", "grading")  # no effect, or known by their content


@final
@dataclass(frozen=True)
class Recipe:
    """One curation: what it reads and how. `identity` is everything that decides the result, by content."""

    source: TableSource
    plan: WorkerPlan
    config: DictConfig
    identity: dict[str, Any]

    @property
    def key(self) -> str:
        """The same for the same content and options: the fingerprint of the result."""
        return hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()[:32]


def run_curation(config: DictConfig) -> Path:
    """Curate, and write a results folder; its files appear when they are whole.

    Raises:
        UserError: the data, the tokenizer or a benchmark cannot be read.
    """
    quieten_libraries()
    recipe = make_recipe(config)
    with results_folder(config) as folder, TemporaryDirectory(prefix=".partial", dir=folder) as partial:
        with CuratedWriter(Path(partial)) as writer:
            account = _curate_rows(recipe, writer)
        report = account.as_dict("characters" if recipe.plan.tokenizer is None else "tokens")
        _write_json(Path(partial) / REPORT_FILE, report)
        for name in _OUTPUTS:
            os.replace(Path(partial) / name, folder / name)
        _write_json(folder / MANIFEST_FILE, _manifest(recipe, folder, report))
        content = {
            "name": config.name,
            "verb": "curate",
            "metrics": {**report["written"], "rows_read": report["rows"]["read"], "rows_used": report["rows"]["used"]},
            "fingerprint": recipe.key,
        }
        write_summary(folder, config, content)
        print_report(recipe.source.table().source, report)
    return folder


def make_recipe(config: DictConfig) -> Recipe:
    """The curation that a configuration asks for.

    Raises:
        UserError: the data group holds no generations, or a file or tokenizer is missing.
    """
    check_arguments(config)
    source = make_source(config)
    if not isinstance(source, TableSource):
        target = config.data.source._target_
        raise UserError(f"data.source._target_={target}: nothing to curate; choose openr1_math, openr1_220k or jsonl")
    c, data = config.curation, config.data
    names = [rule.name for rule in fields(RowRules)]
    values = {name: next(group[name] for group in (c, data, config) if name in group) for name in names}
    rules = RowRules(**values | {"drop_negatives": tuple(c.drop_negatives)})  # a plain one can be sent to a process
    plan = WorkerPlan(
        rules, c.tokenizer, data.prompt_template, tuple(map(str, c.benchmarks)), c.ngram, c.grading.answers
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
        "versions": {library: version(library) for library in _LIBRARIES},
    }
    if c.grader != "never" and not config.verifier._target_.endswith("MathVerifier"):
        with make_grader(config) as grader:
            identity["verifier"] = dict(grader.settings)
    return Recipe(source, plan, config, identity)


def _curate_rows(recipe: Recipe, writer: CuratedWriter) -> Account:
    """Curate every row of the source in order, write its result, and account for it."""
    plan, chunks = work_of(recipe)
    settings, cluster = recipe.config.curation, recipe.config.launcher.address
    account, seen = Account(), SeenTexts("problem", settings.near_threshold)
    with progress_bar() as progress:
        task = progress.add_task("Curating", total=recipe.source.table().num_rows())
        for results in map_ordered(plan, chunks, settings.num_workers, cluster):
            for result in results:
                final = _without_repetition(result, seen)
                account.add(final)
                writer.add(final.demonstrations, final.pairs, final.negatives)
            progress.update(task, completed=account.rows)
    return account


def work_of(recipe: Recipe) -> tuple[WorkerPlan, Iterator[Chunk]]:
    """What the workers do, and the rows for them: graded here or, on a cluster, there."""
    settings, plan = recipe.config.curation, recipe.plan
    chunks = _chunks(recipe.source.problems())
    if recipe.config.launcher.address is None:
        return plan, graded_chunks(chunks, settings.grader, grader_maker(recipe.config))
    if settings.grader != "never":
        plan = replace(plan, grading=(settings.grader, grader_maker(recipe.config)))
    return plan, chunks


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


def _without_repetition(result: RowResult, seen: SeenTexts) -> RowResult:
    """The row, or why it is dropped as a repetition; only rows in use count."""
    reason = None if result.row_reason is not None else seen.reason_to_drop(result.key)
    return result if reason is None else given_up(reason, result.num_generations)


def _tokenizer_hash(plan: WorkerPlan) -> str:
    """By content: the same tokenizer in another folder gives the same tokens."""
    encoder = plan.encoder()
    assert encoder is not None
    tokenizer = encoder.tokenizer
    content = [tokenizer.backend_tokenizer.to_str(), tokenizer.chat_template, encoder.end_of_turn_id]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _manifest(recipe: Recipe, folder: Path, report: dict[str, Any]) -> dict[str, Any]:
    table, written = recipe.source.table(), report["written"]
    rows = {SFT_FILE: written["demonstrations"], PAIRS_FILE: written["pairs"], NEGATIVES_FILE: written["negatives"]}
    return {
        "key": recipe.key,
        "input": {"source": table.source, "content": table.digest(), "rows": report["rows"]["read"]},
        "tokenizer": recipe.plan.tokenizer,
        "outputs": {
            name: {"sha256": file_digest(folder / name)} | ({"rows": rows[name]} if name in rows else {})
            for name in _OUTPUTS
        },
        "decided_by": recipe.identity,
    }


def _write_json(file: Path, content: dict[str, Any]) -> None:
    file.write_text(json.dumps(redacted(content), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def print_report(source: str, report: Mapping[str, Any], console: Console | None = None) -> None:
    """Print the content of report.json for people: every reason with its count and its share.

    Args:
        source: what the rows are called.
        report: see `Account.as_dict`.
        console: where to; None for the screen.
    """
    screen = console or Console()
    verdicts = report["verdicts"]
    graded = verdicts["right"] + verdicts["wrong"] + sum(verdicts["unknown"].values())
    table = Table(box=None, pad_edge=False)
    table.add_column()
    table.add_column("number", justify="right")
    table.add_column("share", justify="right")
    for section, whole in (
        ("rows", report["rows"]["read"]),
        ("generations", report["generations"]["read"]),
        ("verdicts", graded),
    ):
        table.add_row(f"[bold]{section}[/bold]")
        for name, value in report[section].items():
            title = name.replace("_", " ")
            counts = {title: value} if isinstance(value, int) else {f"{title}: {why}": n for why, n in value.items()}
            for shown, number in counts.items():
                table.add_row(f"  {shown}", f"{number:,}", f"{100 * number / whole:.1f} %" if whole else "")
    screen.print(f"\n{source}", highlight=False, soft_wrap=True)
    screen.print(table)
    shown = ", ".join(f"{number:,} {name}" for name, number in report["written"].items())
    screen.print(f"\n{shown}", highlight=False)
    for name, numbers in report["pairs"].items():
        if numbers is not None:
            shown = ", ".join(f"{key} {value:,.2f}" for key, value in numbers.items())
            screen.print(f"  {name.replace('_', ' ')}: {shown}", highlight=False)
    matches = report["benchmark_matches"]
    if matches:
        screen.print(f"\n{len(matches):,} rows share an n-gram with a benchmark (all of them in report.json):")
    for match in matches[:_MOST_MATCHES]:
        line = f"  row {match['source_row']} ({match['id']}) with {match['benchmark_id']}: {match['ngram']}"
        screen.print(line, highlight=False, markup=False, soft_wrap=True)
