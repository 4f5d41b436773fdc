"""`curate` end to end: the published rules, equal bytes, the cache, verdicts of our own, and training on the result."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from redi_lab.backbone.hub import load_tokenizer
from redi_lab.cli import main
from redi_lab.config.compose import load_config
from redi_lab.data.curated import CuratedSource
from redi_lab.data.examples import digest_sequences, encode_examples
from redi_lab.data.readers import TraceFileSource
from redi_lab.data.tokenization import TraceEncoder
from redi_lab.data.traces import Dropped, Generation, Problem
from redi_lab.errors import UserError
from redi_lab.files import file_digest
from redi_lab.verbs.curate.worker import grade_chunk
from redi_lab.verifiers.base import Limits
from redi_lab.verifiers.math import MathVerifier
from tests.verbs.train.test_command import run

RAW = "openr1/SYNTHETIC_openr1_math_raw.jsonl"
FILES = ("sft.parquet", "pairs.parquet", "report.json")


def curate(tmp_path: Path, name: str, *overrides: str, workers: int = 0) -> Path:
    """Run `curate` into a folder of that name."""
    folder = tmp_path / name
    common = [f"paths.outputs_dir={tmp_path}", f"paths.output_dir={folder}", f"curation.num_workers={workers}"]
    main(["curate", *common, *overrides])
    return folder


def openr1(path: Path) -> list[str]:
    return ["data=openr1_math", f"data.path={path}"]


def read_json(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


def read_rows(file: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pyarrow.parquet.read_table(file).to_pylist()
    return rows


def load_jsonl(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().split(b"\n") if line]


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def outcome(folder: Path) -> dict[int, tuple[int | None, list[int] | None]]:
    """Row → (generation of the demonstration, generations of the pair)."""
    sft = {row["source_row"]: row["generation_index"] for row in read_rows(folder / "sft.parquet")}
    pairs = {r["source_row"]: [r["chosen_index"], r["rejected_index"]] for r in read_rows(folder / "pairs.parquet")}
    return {row: (sft.get(row), pairs.get(row)) for row in range(20)}


def test_every_row_of_the_published_rules(tmp_path: Path, shared_data: Callable[[str], Path]) -> None:
    expected = load_jsonl(shared_data("openr1/SYNTHETIC_openr1_math_raw_expected.jsonl"))
    folder = curate(tmp_path, "paper", *openr1(shared_data(RAW)))
    wanted = {i: (row["sft_landmv_idx"], row["pair_landmv"]) for i, row in enumerate(expected)}
    assert outcome(folder) == wanted
    reasons = [row["reason"] for row in expected if row["reason"]]
    report = read_json(folder / "report.json")
    dropped = report["rows"]["dropped"]
    assert dropped == {name: reasons.count(name) for name in reasons} | {"no correct generation": 3}
    assert report["rows"]["read"] == 20 == report["rows"]["used"] + sum(dropped.values())
    texts = load_jsonl(shared_data(RAW))
    for row in read_rows(folder / "pairs.parquet"):
        generations = texts[row["source_row"]]["generations"]
        assert [row["chosen"], row["rejected"]] == [
            generations[i] for i in (row["chosen_index"], row["rejected_index"])
        ]
    assert report["verdicts"]["unknown_used_as_negative"] == {
        "verifiers disagree": 2,
        "a verifier gave no verdict": 1,
        "truncated": 1,
    }


def test_strict_is_the_published_ablation_but_for_the_trace_that_was_cut(
    tmp_path: Path, shared_data: Callable[[str], Path]
) -> None:
    expected = load_jsonl(shared_data("openr1/SYNTHETIC_openr1_math_raw_expected.jsonl"))
    folder = curate(tmp_path, "strict", *openr1(shared_data(RAW)), "curation=strict")
    wanted = {i: (row["sft_landmv_idx"], row["pair_ablation_both_false"]) for i, row in enumerate(expected)}
    different = {row: value for row, value in outcome(folder).items() if value != wanted[row]}
    cut = 11  # "second trace cut at the token limit": unknown, whatever the verifiers say
    assert set(different) <= {cut, 18}  # row 18: the null verdict, which the ablation reads as false
    assert different[cut] == (0, None)
    assert read_json(folder / "report.json")["verdicts"]["unknown_used_as_negative"] == {}


def test_bytes_depend_on_neither_workers_nor_format(tmp_path: Path, shared_data: Callable[[str], Path]) -> None:
    rows = load_jsonl(shared_data(RAW)) * 7
    jsonl = write_jsonl(tmp_path / "raw.jsonl", rows)
    parquet = tmp_path / "raw.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), parquet)
    one = curate(tmp_path, "one", *openr1(jsonl))
    many = curate(tmp_path, "many", *openr1(jsonl), workers=2)
    other = curate(tmp_path, "other_format", *openr1(parquet))
    for name in (*FILES, "negatives.parquet"):
        assert file_digest(one / name) == file_digest(many / name) == file_digest(other / name), name


def test_the_fingerprint_follows_content_and_options(tmp_path: Path, shared_data: Callable[[str], Path]) -> None:
    source = tmp_path / "raw.jsonl"
    source.write_bytes(shared_data(RAW).read_bytes())
    first = curate(tmp_path, "first", *openr1(source))
    os.utime(source, (1, 1))
    second = curate(tmp_path, "second", *openr1(source))
    for name in (*FILES, "manifest.json"):
        assert (first / name).read_bytes() == (second / name).read_bytes()
    source.write_bytes(source.read_bytes().replace(b"I get 11", b"I get 12"))
    third = curate(tmp_path, "third", *openr1(source))
    assert file_digest(third / "pairs.parquet") != file_digest(first / "pairs.parquet")
    fourth = curate(tmp_path, "fourth", *openr1(source), "curation.pairs_per_problem=2")
    keys = [read_json(folder / "summary.json")["fingerprint"] for folder in (first, second, third, fourth)]
    assert keys[0] == keys[1]
    assert len(set(keys)) == 3


def test_the_manifest_names_what_went_in_and_out(tmp_path: Path, shared_data: Callable[[str], Path]) -> None:
    folder = curate(tmp_path, "a", *openr1(shared_data(RAW)))
    manifest = read_json(folder / "manifest.json")
    assert manifest["input"]["rows"] == 20
    assert manifest["input"]["source"] == str(shared_data(RAW))
    for name in FILES:
        assert manifest["outputs"][name]["sha256"] == file_digest(folder / name)
    assert manifest["outputs"]["sft.parquet"]["rows"] == 12
    assert manifest["decided_by"]["options"]["unknown"] == "negative"
    assert {"pyarrow", "rapidfuzz"} <= set(manifest["decided_by"]["versions"])


def test_openr1_220k(tmp_path: Path, shared_data: Callable[[str], Path]) -> None:
    path = shared_data("openr1/SYNTHETIC_openr1_math_220k.jsonl")
    folder = curate(tmp_path, "a", "data=openr1_220k", f"data.path={path}", "curation=strict")
    report = read_json(folder / "report.json")
    assert report["rows"]["read"] == 20
    assert report["written"]["pairs"] > 0
    assert set(json.loads(read_rows(folder / "sft.parquet")[0]["verdicts"])) <= {"math_verify", "llama"}


OWN = [
    {
        "problem": f"What is {i} + 4?",
        "answer": str(i + 4),
        "generations": [
            {"text": f"It is \\boxed{{{i + 4}}}.", "correct": None},
            {"text": f"It is \\boxed{{{i + 5}}}.", "correct": None},
            {"text": "Let me see.", "correct": None},
        ],
    }
    for i in range(3)
]


def test_our_own_verdict_where_the_corpus_has_none(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "own.jsonl", [*OWN, {**OWN[0], "problem": "And no answer?", "answer": None}])
    without = curate(tmp_path, "strict", "data=jsonl", f"data.path={source}", "curation=strict")
    assert read_json(without / "report.json")["written"] == {"demonstrations": 0, "pairs": 0, "negatives": 0}
    folder = curate(tmp_path, "grader", "data=jsonl", f"data.path={source}", "curation=grader")
    report = read_json(folder / "report.json")
    assert report["written"] == {"demonstrations": 3, "pairs": 3, "negatives": 3}
    unknown = report["verdicts"]["unknown"]
    assert unknown["no answer to grade against"] == 3
    assert sum(unknown.values()) == 6  # and the three that state no answer
    assert read_rows(folder / "pairs.parquet")[0]["rejected_verdicts"] == '{"grader": false}'


def test_the_grader_as_one_more_verifier() -> None:
    """It disagrees with the corpus about the first generation, and agrees about the second."""
    words = (("correct", False),)
    problem = Problem("a", "?", "7", (Generation("\\boxed{7}", None, words), Generation("\\boxed{8}", None, words)))
    with MathVerifier(Limits(1)) as grader:
        ((_, always), (_, dropped)) = grade_chunk([(0, problem), (1, Dropped("b", "x"))], "always", grader)
        ((_, missing),) = grade_chunk([(0, problem)], "missing", grader)
    assert isinstance(always, Problem)
    assert [g.verdicts for g in always.generations] == [(*words, ("grader", True)), (*words, ("grader", False))]
    assert missing == problem
    assert dropped == Dropped("b", "x")


PARITY = """
import json, sys
for line in sys.stdin:
    row = json.loads(line)
    verdict = "unknown" if row["completion"] == "?" else "right" if row["completion"] == row["answers"][0] else "wrong"
    print(json.dumps({"id": row["id"], "verdict": verdict, "reason": "cannot read it"}), flush=True)
"""


def test_a_users_verifier_gives_our_own_verdict(tmp_path: Path) -> None:
    """Its texts state no final answer that the rules of mathematics know, and its settings are part of the result."""
    (tmp_path / "mine.py").write_text(PARITY)
    generations = [{"text": text, "correct": None} for text in ("It is odd, as said before this.", "even", "?")]
    source = write_jsonl(tmp_path / "own.jsonl", [{"problem": "7?", "answer": "even", "generations": generations}])
    command = ["data=jsonl", f"data.path={source}", "curation=grader", "verifier=command"]
    command.append(f"verifier.command=[{sys.executable},{tmp_path / 'mine.py'}]")
    with pytest.raises(UserError, match=r"^curation\.require_answer=true: .* add curation\.require_answer=false$"):
        load_config("curate", command)
    command.append("curation.require_answer=false")
    folder = curate(tmp_path, "mine", *command)
    report = read_json(folder / "report.json")
    assert report["written"] == {"demonstrations": 1, "pairs": 1, "negatives": 1}
    assert report["verdicts"]["unknown"] == {"cannot read it": 1}
    assert read_rows(folder / "pairs.parquet")[0]["rejected"].startswith("It is odd")
    decided = read_json(folder / "manifest.json")["decided_by"]
    assert decided["verifier"]["name"] == "command"
    assert str(tmp_path / "mine.py") in decided["verifier"]["files"]
    plain = curate(tmp_path, "plain", *command[:3])
    assert "verifier" not in read_json(plain / "manifest.json")["decided_by"]


def test_a_benchmarks_problems_are_dropped_and_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = "A train leaves the station at noon and travels north at sixty miles an hour until"
    row = {"problem": f"{words} evening.", "generations": [{"text": "a", "correct": True}], "id": "leak"}
    clean = {"problem": "1+1?", "generations": [{"text": "a", "correct": True}], "id": "clean"}
    source = write_jsonl(tmp_path / "own.jsonl", [clean, row])
    bench = write_jsonl(tmp_path / "bench.jsonl", [{"id": "bench/1", "problem": f"{words.upper()} dawn?"}])
    folder = curate(tmp_path, "a", "data=jsonl", f"data.path={source}", f"curation.benchmarks=[{bench}]")
    report = read_json(folder / "report.json")
    (match,) = report["benchmark_matches"]
    assert (match["source_row"], match["id"], match["benchmark_id"]) == (1, "leak", "bench/1")
    assert match["ngram"] == " ".join(words.lower().split()[:13])
    assert report["rows"]["dropped"] == {"shares an n-gram with a benchmark": 1}
    assert "row 1 (leak) with bench/1: a train leaves" in capsys.readouterr().out


def test_repeated_problems_leave_once(tmp_path: Path) -> None:
    right, wrong = {"text": "a", "correct": True}, {"text": "b", "correct": False}
    rows = [
        {"problem": "What is 3 + 4?", "generations": [wrong]},  # gives nothing, so it does not stand for its twins
        {"problem": "What is 3 + 4?", "generations": [right, wrong]},
        {"problem": "what is  3 + 4?", "generations": [right, wrong]},
    ]
    source = write_jsonl(tmp_path / "own.jsonl", rows)
    folder = curate(tmp_path, "a", "data=jsonl", f"data.path={source}", "curation.problem_duplicates=exact")
    report = read_json(folder / "report.json")
    assert report["rows"]["dropped"] == {"duplicate of an earlier problem": 1, "no correct generation": 1}
    assert report["generations"]["not_used"]["row dropped: duplicate of an earlier problem"] == 2
    assert [row["source_row"] for row in read_rows(folder / "sft.parquet")] == [1]


def test_tokens_of_the_students_tokenizer(
    tmp_path: Path, qwen_folder: Path, shared_data: Callable[[str], Path]
) -> None:
    limits = [f"curation.tokenizer={qwen_folder}", "data.max_completion_tokens=60"]
    folder = curate(tmp_path, "a", *openr1(shared_data(RAW)), *limits)
    report = read_json(folder / "report.json")
    assert report["generations"]["not_used"]["completion over 60 tokens"] > 0
    rows = read_rows(folder / "sft.parquet") + read_rows(folder / "pairs.parquet")
    assert all(row.get("completion_tokens", 0) <= 60 and row.get("rejected_tokens", 0) <= 60 for row in rows)
    assert all(row["prompt_tokens"] > 0 for row in rows)
    assert "common_prefix_tokens" in report["pairs"]


@pytest.mark.slow  # two processes import transformers
def test_tokens_are_the_same_in_worker_processes(
    tmp_path: Path, qwen_folder: Path, shared_data: Callable[[str], Path]
) -> None:
    overrides = [*openr1(shared_data(RAW)), f"curation.tokenizer={qwen_folder}"]
    one = curate(tmp_path, "one", *overrides)
    two = curate(tmp_path, "two", *overrides, workers=2)
    assert file_digest(one / "pairs.parquet") == file_digest(two / "pairs.parquet")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data=openr1_math", "data.max_prompt_tokens=5"], "give its tokenizer with curation.tokenizer="),
        (["data=openr1_math", "curation=lax"], "curation=lax: no such option; choose grader, paper, strict"),
        (["data=openr1_math", "curation.unknown=x"], "curation.unknown=x: must be unused"),
        (["data=openr1_math", "curation.pair_order=x"], "curation.pair_order=x: must be first"),
        (["data=openr1_math", "curation.pairs_per_problem=0"], "curation.pairs_per_problem=0: must be"),
        (["data=openr1_math", "curation.near_threshold=2"], "curation.near_threshold=2: must be"),
        (["data=openr1_math", "curation.benchmarks=[/nowhere]"], "curation.benchmarks: /nowhere: no such file"),
        (["data=openr1_math", "curation.ngarm=3"], "unknown key curation.ngarm: curation has"),
        ([], "data is required and has no default: add data=NAME, one of arithmetic, chains, curated, jsonl"),
    ],
)
def test_mistakes_are_told_in_one_line(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        load_config("curate", overrides)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_source_without_generations_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        curate(tmp_path, "a", "data=arithmetic")
    assert "nothing to curate; choose openr1_math, openr1_220k or jsonl" in capsys.readouterr().err


def test_a_bad_row_leaves_no_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_jsonl(tmp_path / "own.jsonl", [*OWN, {"problem": "?"}])
    with pytest.raises(SystemExit):
        curate(tmp_path, "a", "data=jsonl", f"data.path={source}")
    assert "own.jsonl:4: without the key" in capsys.readouterr().err
    assert not (tmp_path / "a").exists()


def test_a_curation_is_a_source_of_training(tmp_path: Path, shared_data: Callable[[str], Path]) -> None:
    """Every row that was written is accounted for again, and what is held out is not trained on."""
    path = write_jsonl(tmp_path / "rows.jsonl", load_jsonl(shared_data("gsm8k/gsm8k_model_solutions.jsonl"))[:200])
    folder = curate(tmp_path, "curated", "data=jsonl", f"data.path={path}", "curation=strict")
    written = read_json(folder / "report.json")["written"]
    corpus = CuratedSource(str(folder), num_heldout=8).load()
    assert corpus.counts.rows_read == written["demonstrations"] == len(corpus.demonstrations) + 8
    assert written["pairs"] - 8 <= len(corpus.pairs) <= written["pairs"]
    everything = ["curation.demonstrations=all", "curation.negatives=all"]
    folder = curate(tmp_path, "all", "data=jsonl", f"data.path={path}", "curation=strict", *everything)
    report = read_json(folder / "report.json")
    assert report["written"]["negatives"] == report["verdicts"]["wrong"] > written["negatives"]
    corpus = CuratedSource(str(folder)).load()
    found = {
        "demonstrations": len(corpus.demonstrations),
        "pairs": len(corpus.pairs),
        "negatives": len(corpus.negatives),
    }
    assert found == report["written"]


WEIGHTED = [
    {
        "problem": f"{i}+1?",
        "weight": 0.5,
        "generations": [
            {
                "text": f"{i}+1=2",
                "correct": False,
                "steps": [{"start": 0, "end": 3}, {"start": 4, "end": 5, "right": False}],
            },
            {"text": "I know that.", "correct": True, "weight": 2, "spans": [{"start": 0, "end": 6, "weight": -0.25}]},
            {"text": "4", "correct": None},
        ],
    }
    for i in range(2, 150)
]


def test_weights_from_rows_to_tokens(tmp_path: Path, qwen_folder: Path) -> None:
    """The same sequences as without `curate` in between."""
    source = write_jsonl(tmp_path / "own.jsonl", WEIGHTED)
    folder = curate(tmp_path, "curated", "data=jsonl", f"data.path={source}")
    encoder = TraceEncoder(load_tokenizer(str(qwen_folder)))
    read, curated = TraceFileSource(str(source)).load(), CuratedSource(str(folder)).load()
    for task, rule in (("pairs", "after_first_error"), ("unpaired", "spans"), ("demonstrations", "spans")):
        examples = [encode_examples(corpus, encoder, task, rule, 0.5) for corpus in (read, curated)]  # type: ignore[arg-type]
        assert len({digest_sequences(s for e in one for s in e) for one in examples}) == 1
    (chosen, rejected), *_ = encode_examples(curated, encoder, "pairs", "after_first_error")
    assert [(s.weight, s.pass_rate) for s in (chosen, rejected)] == [(1.25, 0.5)] * 2
    assert chosen.token_weights is None
    assert encoder.tokenizer.decode(list(rejected.input_ids[rejected.prompt_length :])) == "2+1=2<|endoftext|>"
    assert list(rejected.token_weights or ()) == [0.0, 0.0, 0.0, 0.0, 1.0, 1.0]


@pytest.mark.slow  # trains twice
def test_training_from_a_curation(tmp_path: Path, shared_data: Callable[[str], Path]) -> None:
    """Both stages, on what was written: every row of the selection is accounted for again."""
    rows = load_jsonl(shared_data("gsm8k/gsm8k_model_solutions.jsonl"))
    path = write_jsonl(tmp_path / "rows.jsonl", rows[:200])
    folder = curate(tmp_path, "curated", "data=jsonl", f"data.path={path}", "curation=strict")
    written = read_json(folder / "report.json")["written"]
    overrides = [
        "data=curated",
        f"data.path={folder}",
        "data.source.num_heldout=8",
        "model.vocab_size=300",
        "model.config.hidden_size=24",
        "model.config.num_hidden_layers=1",
        "model.config.intermediate_size=32",
        "trainer.max_steps=2",
        "init_overrides=['trainer.max_steps=2']",
        "eval.num_samples=1",
        "eval.max_new_tokens=16",
        "logger=none",
        f"paths.outputs_dir={tmp_path / 'outputs'}",
    ]
    selection = run(overrides, tmp_path / "run")["data"]["selection"]
    assert selection["rows_read"] == written["demonstrations"] == selection["demonstrations"] + 8
    assert written["pairs"] - 8 <= selection["pairs"] <= written["pairs"]

    everything = ["curation.demonstrations=all", "curation.negatives=all"]
    folder = curate(tmp_path, "all", "data=jsonl", f"data.path={path}", "curation=strict", *everything)
    report = read_json(folder / "report.json")
    assert report["written"]["negatives"] == report["verdicts"]["wrong"] > written["negatives"]
    overrides[1:3] = [f"data.path={folder}", "data.source.num_heldout=0", "eval=none", "loss=unpaired_redi"]
    batches = run(overrides, tmp_path / "unpaired")["data"]["batches"]
    assert batches["train"] == report["written"]["demonstrations"] + report["written"]["negatives"]
