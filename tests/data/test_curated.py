"""What is written can be trained on, with every row accounted for."""

from __future__ import annotations

from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from redi_lab.curation.curator import RowCurator, RowRules
from redi_lab.data.curated import PAIRS_SCHEMA, TRACE_SCHEMA, CuratedSource, CuratedWriter
from redi_lab.data.traces import Generation, Problem
from redi_lab.errors import UserError
from redi_lab.files import file_digest
from tests.curation.rules import rules

ALL = rules(demonstrations="all", pairs_per_problem=None)


def write(folder: Path, *verdicts: str, rules: RowRules = ALL) -> Path:
    """Problem i has the verdicts of the i-th text, and the answer i."""
    folder.mkdir(exist_ok=True)
    curator = RowCurator(rules)
    with CuratedWriter(folder) as writer:
        for index, marks in enumerate(verdicts):
            generations = tuple(
                Generation(f"{index}:{j}", None, (("v", m == "+"),), error=None if m == "+" else f"slip {j}")
                for j, m in enumerate(marks)
            )
            made = curator.curate(index, Problem(f"p{index}", f"problem {index}", str(index), generations))
            writer.add(made.demonstrations, made.pairs, made.negatives)
    return folder


def test_the_schema_is_the_published_one(tmp_path: Path) -> None:
    folder = write(tmp_path / "a", "+-", "++")
    sft, pairs = (pyarrow.parquet.read_table(folder / name) for name in ("sft.parquet", "pairs.parquet"))
    assert sft.schema.equals(TRACE_SCHEMA)
    assert pairs.schema.equals(PAIRS_SCHEMA)
    assert sft.schema.names == [
        "id", "problem", "completion", "answer", "source", "source_row", "pass_rate", "generation_index", "verdicts",
        "error",        "prompt_tokens", "completion_tokens", "weight", "spans", "steps",
    ]  # fmt: skip
    assert sft["source_row"].to_pylist() == [0, 1, 1]
    assert pairs["verdicts" if "verdicts" in pairs.schema.names else "chosen_verdicts"].to_pylist() == ['{"v": true}']
    assert str(pairs.schema.field("common_prefix").type) == "int32"


def test_equal_rows_give_equal_bytes(tmp_path: Path) -> None:
    first, second = write(tmp_path / "a", "+-", "+"), write(tmp_path / "b", "+-", "+")
    other = write(tmp_path / "c", "+-", "++")
    for name in ("sft.parquet", "pairs.parquet"):
        assert file_digest(first / name) == file_digest(second / name)
    assert file_digest(first / "sft.parquet") != file_digest(other / "sft.parquet")


def test_a_corpus_of_the_written_rows(tmp_path: Path) -> None:
    corpus = CuratedSource(str(write(tmp_path / "a", "+--", "++", "-", "+-"))).load()
    assert [d.completion for d in corpus.demonstrations] == ["0:0", "1:0", "1:1", "3:0"]
    assert [(p.id, p.chosen, p.rejected) for p in corpus.pairs] == [
        ("p0", "0:0", "0:1"),
        ("p0", "0:0", "0:2"),
        ("p3", "3:0", "3:1"),
    ]
    assert [n.completion for n in corpus.negatives] == ["0:1", "0:2", "3:1"]
    counts = corpus.counts.as_dict()
    assert counts["rows_read"] == 5  # two of p0, two of p1, one of p3
    assert counts["without_demonstration"] == {"no further demonstration of this problem": 1}
    assert counts["without_pair"] == {"no further pair of this problem": 2}


def test_held_out_problems_leave_with_all_their_rows(tmp_path: Path) -> None:
    folder = write(tmp_path / "a", *["+--"] * 12)
    corpus = CuratedSource(str(folder), num_heldout=4, seed=1).load()
    held = {item.problem for item in corpus.held_out}
    assert len(held) == 4
    assert {item.answers for item in corpus.held_out} <= {(str(i),) for i in range(12)}
    assert not held & ({d.problem for d in corpus.demonstrations} | {p.problem for p in corpus.pairs})
    assert len(corpus.pairs) == 16
    assert corpus.counts.held_out == 4
    assert corpus.counts.dropped == {"same text as a held-out problem": 4}


def test_the_digest_is_of_content_and_options(tmp_path: Path) -> None:
    first, second = write(tmp_path / "a", "+-", "+"), write(tmp_path / "b", "+-", "+")
    assert CuratedSource(str(first)).digest() == CuratedSource(str(second)).digest()
    assert CuratedSource(str(first)).digest() != CuratedSource(str(first), seed=1).digest()
    assert CuratedSource(str(first)).digest() != CuratedSource(str(write(tmp_path / "c", "+-"))).digest()


def test_what_is_no_curation_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no sft\.parquet there; give the results folder"):
        CuratedSource(str(tmp_path)).digest()
    folder = write(tmp_path / "a", "+-")
    pyarrow.parquet.write_table(pyarrow.table({"id": ["a"]}), folder / "sft.parquet")
    with pytest.raises(UserError, match=r"sft\.parquet: without the columns problem, .*; curate again"):
        CuratedSource(str(folder)).load()
    (folder / "sft.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(UserError, match=r"sft\.parquet: not a readable Parquet file"):
        CuratedSource(str(folder)).load()
    with pytest.raises(UserError, match="num_heldout=1 problems were asked for, but only 0"):
        CuratedSource(str(write(tmp_path / "b", "-")), num_heldout=1).load()
    with pytest.raises(UserError, match="no demonstration is left"):
        CuratedSource(str(write(tmp_path / "b", "-"))).load()


def test_wrong_traces_of_problems_without_a_right_one_are_negatives_too(tmp_path: Path) -> None:
    every = rules(demonstrations="all", negatives="all")
    corpus = CuratedSource(str(write(tmp_path / "a", "+--", "++", "--", "+-", rules=every))).load()
    assert [n.completion for n in corpus.negatives] == ["0:1", "0:2", "2:0", "2:1", "3:1"]
    assert [p.rejected for p in corpus.pairs] == ["0:1", "3:1"]
    counts = corpus.counts.as_dict()
    assert counts["rows_read"] == 7  # two of p0, p1 and p2, one of p3
    assert counts["without_demonstration"] == {"no further demonstration of this problem": 3}
    held = CuratedSource(str(tmp_path / "a"), num_heldout=2, seed=1).load()
    assert not {item.problem for item in held.held_out} & {negative.problem for negative in held.negatives}


def test_the_kind_of_error_is_kept(tmp_path: Path) -> None:
    corpus = CuratedSource(str(write(tmp_path / "a", "+--", "-+"))).load()
    assert [pair.error for pair in corpus.pairs] == ["slip 1", "slip 2", "slip 0"]
    assert sorted(str(row.error) for row in corpus.negatives) == ["slip 0", "slip 1", "slip 2"]
