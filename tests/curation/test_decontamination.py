from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest

from redi_lab.curation.decontamination import NgramIndex, index_benchmarks, normalised_words
from redi_lab.data.jsonl import read_jsonl
from redi_lab.errors import UserError

PROBLEM = (
    r"Let $\triangle ABC$ have side lengths $AB = 13,$ $BC=14,$ and $CA = 15.$ Find the sum "
    r"$\frac{1}{2} \left( x^{2} + y^2 \right) \le 58,\! 500$ in the two-digit case."
)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Find THE sum!\n\tof x", "find the sum of x"),
        (r"\(a\), \[b\] and $c$", "a b and c"),
        ("3+4", "3 +4"),
        ("3 + 4", "3 +4"),
        ("3 − 4", "3 -4"),
        (r"3 + \left( -4 \right)", "3 + -4"),
        (r"x^{2}_1, x²", "x 2 1 x 2"),
        (r"\frac{1}{2} \dfrac12 \tfrac 1 2 \cfrac1{2}", "frac 1 2 frac 1 2 frac 1 2 frac 1 2"),
        (r"a\,b\!c\;d~e\quad f\hspace{2cm}g\ h", "a b c d e f g h"),
        (r"\left[ \bigl( \Big| \text{cm} \mathrm{d}x \operatorname{lcm}", "cm d x lcm"),
        (r"\leftarrow \textstyle \lefty", "leftarrow lefty"),
        (r"a \leq b ≤ c \le d \geq e \neq f", "a le b le c le d ge e ne f"),
        (r"11,\! 111{,}111 and 58,500 but 1,23", "11111111 and 58500 but 1 23"),
        ("2-digit, two-digit, $9$-kilometer, x-1, x - y", "2 -digit two digit 9 -kilometer x -1 x -y"),
        ("求和 of x", "求 和 of x"),
        ("abc123", "abc 123"),
        ("...!?$$", ""),
        ("", ""),
        ("\ud800 x", "x"),
    ],
)
def test_what_a_word_is(text: str, words: str) -> None:
    assert " ".join("".join(word) for word in normalised_words(text)) == words


@pytest.mark.parametrize(
    "variant",
    [
        PROBLEM.upper().replace(r"\TRIANGLE", r"\triangle").replace(r"\FRAC", r"\frac").replace(r"\LE", r"\le"),
        PROBLEM.replace(" ", "\n   "),
        PROBLEM.replace(" = ", "=").replace("=", "  =  "),
        PROBLEM.replace("$", r"\,$~"),
        PROBLEM.replace(r"\frac{1}{2}", r"\dfrac12").replace(r"\left", "").replace(r"\right", "").replace("{2}", "2"),
        PROBLEM.replace("$", "").replace(",", "").replace(r"\! ", "").replace(".", ";"),
        "In this exercise: " + PROBLEM + " Put your answer in a box.",
    ],
)
def test_a_variant_still_matches(variant: str) -> None:
    index = NgramIndex(13)
    index.add("triangle/1", PROBLEM)
    found = index.match(variant)
    assert found is not None
    assert found[0] == "triangle/1"
    assert len(found[1].split()) == 13


def test_n_words_in_a_row_match_and_fewer_do_not() -> None:
    index = NgramIndex(n=4)
    index.add("p", "one two three four five six")
    assert index.match("zero two three four five zero") == ("p", "two three four five")
    assert index.match("zero two three four zero five six") is None
    assert index.match("two three four") is None


def test_short_problems_match_as_a_whole_only() -> None:
    index = NgramIndex(13)
    index.add("short", "Compute $3 + 4$.")
    assert index.match("compute 3+4") == ("short", "compute 3 +4")
    assert index.match("Compute $3 - 4$.") is None
    assert index.match("Compute 3+4 and then something else that makes this text a good deal longer") is None
    index.add("empty", "$$")
    assert index.match("") is None
    assert index.match("!") is None


def test_the_first_problem_with_the_first_shared_ngram_is_named() -> None:
    index = NgramIndex(n=3)
    index.add("a", "x x y y")
    index.add("b", "y y z z x x y")
    assert index.match("q y y z then x x y") == ("b", "y y z")
    assert index.match("x x y") == ("a", "x x y")


def test_the_index_travels_to_worker_processes() -> None:
    index = NgramIndex(13)
    index.add("triangle/1", PROBLEM)
    assert pickle.loads(pickle.dumps(index)).match(PROBLEM) == index.match(PROBLEM)


def write_rows(file: Path, *rows: object) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_benchmark_files_are_read_and_rows_without_id_are_named_by_their_place(tmp_path: Path) -> None:
    first = write_rows(tmp_path / "a.jsonl", {"id": "a/7", "problem": "Find x."}, {"problem": "Find y.", "answer": 3})
    second = write_rows(tmp_path / "b.jsonl", {"id": 0, "problem": "Find z."})
    index = index_benchmarks([first, second], n=2)
    assert [index.match(f"find {name}") for name in "xyz"] == [
        ("a/7", "find x"),
        (f"{first}:2", "find y"),
        ("0", "find z"),
    ]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": "Find x."}, r"a\.jsonl:2:problem: .* got None"),
        ({"problem": ["Find x."]}, r"a\.jsonl:2:problem: "),
        ({"problem": "$$"}, r"a\.jsonl:2:problem: "),
        ([], r"a\.jsonl:2: expected a JSON object"),
    ],
)
def test_a_bad_benchmark_row_is_named(tmp_path: Path, row: object, message: str) -> None:
    file = write_rows(tmp_path / "a.jsonl", {"problem": "Find x."}, row)
    with pytest.raises(UserError, match=message):
        index_benchmarks([file], 13)


def test_a_file_without_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a\.jsonl: has no rows"):
        index_benchmarks([write_rows(tmp_path / "a.jsonl")], 13)
    with pytest.raises(UserError, match=r"absent\.jsonl: cannot be read"):
        index_benchmarks([tmp_path / "absent.jsonl"], 13)


def problems(file: Path) -> list[str]:
    return [str(row["problem"]) for _, row in read_jsonl(file)]


def test_traces_on_math500_are_found_completely(shared_data: Callable[[str], Path]) -> None:
    index = index_benchmarks([shared_data("eval/math500.jsonl")], 13)
    traces = [(str(row["id"]), str(row["problem"])) for _, row in read_jsonl(shared_data("traces/sky_math500.jsonl"))]
    found = [index.match(text) for _, text in traces]
    assert len(found) == 250
    assert all(found)
    names = [match[0] for match in found if match]
    # Two problems of MATH-500 share an n-gram, which is known by the first of them.
    assert sum(name == own for name, (own, _) in zip(names, traces, strict=True)) == 249
    respaced = [index.match(text.replace("$", r" $\! ").replace(" ", "\n ")) for _, text in traces]
    assert all(respaced)


@pytest.mark.slow
def test_chance_matches_between_different_corpora_are_rare(shared_data: Callable[[str], Path]) -> None:
    """3 of 1,500: sentences such as "miles in 3 hours at the same rate how many additional hours would"."""
    train = problems(shared_data("gsm8k/gsm8k_train.jsonl"))[:1500]
    index = index_benchmarks([shared_data("gsm8k/gsm8k_test.jsonl")], 13)
    assert sum(index.match(text) is not None for text in train) == 3
    others = [shared_data(f"eval/{name}.jsonl") for name in ("math500", "aime24", "olympiadbench", "amc_83_official")]
    assert not any(map(index_benchmarks(others, 13).match, train))
