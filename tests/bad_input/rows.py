# ruff: noqa: E501 (a case is a line)
"""Malformed JSONL, gzip, Parquet and JSON files, for every reader: training, `curate`, `grade`, `evaluate`, `preview`."""

from __future__ import annotations

import gzip
import io
import json
import os
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet

from tests.bad_input.world import SMALL, Case, Command, World

GOOD = {"id": "a", "problem": "1+1?", "answer": "2", "generations": [{"text": "2", "correct": True}]}
PAIR = {"prompt": "1+1?", "chosen": "2", "rejected": "3"}
CHAT: dict[str, Any] = {
    "messages": [{"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "2"}],
    "correct": True,
    "answer": "2",
}
RAW = {
    "problem": "1+1?",
    "problem_is_valid": "Yes",
    "source": "x",
    "answer": "2",
    "generations": ["2"],
    "correctness": {"llama_verification": [True], "math_verify_reparsed_answer": [True]},
}


def line(row: object) -> bytes:
    return json.dumps(row).encode() + b"\n"


def changed(row: dict[str, Any], **changes: object) -> dict[str, Any]:
    """With other values; ... removes the key."""
    return {key: value for key, value in (row | {"id": "b"} | changes).items() if value is not ...}


def parquet(rows: Sequence[dict[str, Any]], keep: int | None = None) -> bytes:
    stream = io.BytesIO()
    pyarrow.parquet.write_table(pa.Table.from_pylist(list(rows)).slice(0, keep), stream)
    return stream.getvalue()


def table(content: pa.Table) -> bytes:
    stream = io.BytesIO()
    pyarrow.parquet.write_table(content, stream)
    return stream.getvalue()


def training(name: str, content: bytes) -> Command:
    return lambda world: [
        *SMALL,
        "data=jsonl",
        "data.source.num_heldout=0",
        "logger=none",
        f"data.path={world.write(name, content)}",
    ]


def after_a_good_row(row: object) -> Command:
    return training("mine.jsonl", line(GOOD) + (row if isinstance(row, bytes) else line(row)))


def after_a_good_chat(row: dict[str, Any]) -> Command:
    return training("mine.jsonl", line(CHAT) + line(row))


def after_a_good_pair(row: dict[str, Any]) -> Command:
    return training("mine.jsonl", line(PAIR) + line(row))


_FILES: list[Case] = [
    Case("an empty file", training("mine.jsonl", b""), r".*mine\.jsonl: there is no row in it"),
    Case("blank lines alone", training("mine.jsonl", b"\n \n"), r".*mine\.jsonl: there is no row in it"),
    Case("only a byte order mark", training("mine.jsonl", b"\xef\xbb\xbf"), r".*mine\.jsonl:1: not valid JSON: .*"),
    Case(
        "an ending nobody knows",
        training("mine.csv", b"a,b\n"),
        r".*mine\.csv: cannot tell the format; the name must end",
    ),
    Case(
        "gzip under a plain name",
        training("mine.jsonl", gzip.compress(line(GOOD))),
        r".*mine\.jsonl: is compressed with gzip: name it mine\.jsonl\.gz, or decompress it",
    ),
    Case(
        "plain under a gzip name",
        training("mine.jsonl.gz", line(GOOD)),
        r".*mine\.jsonl\.gz: cannot be read: Not a gzipped.*; .*",
    ),
    Case(
        "gzip cut off",
        training("mine.jsonl.gz", gzip.compress(b"".join(line(changed(GOOD, id=i)) for i in range(99)))[:-9]),
        r".*mine\.jsonl\.gz: cannot be read: Compressed file ended.*; .*",
    ),
    Case(
        "gzip with a damaged byte",
        training("mine.jsonl.gz", gzip.compress(line(GOOD))[:20] + b"\0" * 40),
        r".*mine\.jsonl\.gz: cannot be read: .*; .*",
    ),
    Case(
        "UTF-16",
        training("mine.jsonl", json.dumps(GOOD).encode("utf-16")),
        r".*mine\.jsonl:1: not valid UTF-8 .*save it as UTF-8",
    ),
    Case(
        "Parquet cut off",
        training("mine.parquet", parquet([GOOD])[:-10]),
        r".*mine\.parquet: not a readable Parquet file: .*; .*",
    ),
    Case(
        "Parquet without its beginning",
        training("mine.parquet", b"PAR1" + parquet([GOOD])[90:]),
        r".*mine\.parquet: .*; .*",
    ),
    Case(
        "an empty Parquet file", training("mine.parquet", b""), r".*mine\.parquet: not a readable Parquet file: .*; .*"
    ),
    Case(
        "JSON lines named Parquet",
        training("mine.parquet", line(GOOD)),
        r".*mine\.parquet: not a readable Parquet file: .*; .*",
    ),
    Case(
        "a gzip bomb of one line",
        training("mine.jsonl.gz", gzip.compress(b'{"problem": "' + b"0" * (65 * 2**20), compresslevel=1)),
        r".*mine\.jsonl\.gz:1: a line of more than 67,108,864 bytes; end each row with a line break",
    ),
    Case(
        "a Parquet column twice",
        training("mine.parquet", table(pa.table([["1"], ["2"]], names=["problem", "problem"]))),
        r".*mine\.parquet: has the column problem twice; drop or rename one",
    ),
    Case(
        "a Parquet date in the year 5,000,000",
        training("mine.parquet", table(pa.table({"day": pa.array([2**31 - 1], pa.int32()).cast(pa.date32())}))),
        r".*mine\.parquet: cannot be read after row 0: .*; correct it or write it again",
    ),
    Case(
        "Parquet without rows",
        training("mine.parquet", parquet([GOOD], keep=0)),
        r".*mine\.parquet: there is no row in it",
    ),
]

_LINES: list[Case] = [
    Case(
        "a truncated line",
        after_a_good_row(b'{"id": "b", "problem": "1'),
        r".*mine\.jsonl:2: not valid JSON: .* \(the file may be cut off here\); correct it",
    ),
    Case(
        "two objects on a line",
        after_a_good_row(line(GOOD)[:-1] + line(GOOD)),
        r".*mine\.jsonl:2: not valid JSON: Extra data at column \d+",
    ),
    Case("single quotes", after_a_good_row(b"{'id': 'b'}\n"), r".*mine\.jsonl:2: not valid JSON: .* at column 2"),
    Case("a trailing comma", after_a_good_row(b'{"id": "b",}\n'), r".*mine\.jsonl:2: not valid JSON: .* at column"),
    Case("a comment", after_a_good_row(b"# rows\n"), r".*mine\.jsonl:2: not valid JSON: .* at column 1"),
    Case("a list", after_a_good_row([GOOD]), r".*mine\.jsonl:2: expected a JSON object on each line, got \[\{"),
    Case("a number", after_a_good_row(3), r".*mine\.jsonl:2: expected a JSON object on each line, got 3"),
    Case("null", after_a_good_row(None), r".*mine\.jsonl:2: expected a JSON object on each line, got null"),
    Case(
        "invalid UTF-8",
        after_a_good_row(b'{"problem": "\xff"}\n'),
        r".*mine\.jsonl:2: not valid UTF-8 \(byte 14 of the line\): save it as UTF-8",
    ),
    Case(
        "half a surrogate pair",
        after_a_good_row(b'{"problem": "\\ud83d"}\n'),
        r".*mine\.jsonl:2: holds half of a surrogate pair",
    ),
    Case(
        "a key twice",
        after_a_good_row(b'{"id": "b", "id": "c"}\n'),
        r".*mine\.jsonl:2: not usable as JSON: key \"id\" is there twice",
    ),
    Case(
        "a key twice inside",
        after_a_good_row(b'{"g": [{"text": "2", "text": "3"}]}\n'),
        r".*mine\.jsonl:2: .*key \"text\" is there twice",
    ),
    Case(
        "NaN",
        after_a_good_row(b'{"id": NaN}\n'),
        r".*mine\.jsonl:2: not usable as JSON: NaN is not a JSON number; write null",
    ),
    Case(
        "infinity",
        after_a_good_row(b'{"id": -Infinity}\n'),
        r".*mine\.jsonl:2: not usable as JSON: -Infinity is not a JSON number; write null",
    ),
    Case(
        "a number of 5,000 digits",
        after_a_good_row(b'{"id": ' + b"9" * 5000 + b"}\n"),
        r".*mine\.jsonl:2: not usable as JSON: .*has 5000 digits",
    ),
    Case(
        "a number out of range",
        after_a_good_row(b'{"id": 1e999}\n'),
        r".*mine\.jsonl:2: not usable as JSON: 1e999 is not a JSON number; write null",
    ),
    Case(
        "lists 100,000 deep",
        after_a_good_row(b"[" * 100_000 + b"\n"),
        r".*mine\.jsonl:2: not usable as JSON: lists or objects nested too deeply; flatten them",
    ),
    Case(
        "a NUL byte",
        after_a_good_row(b'{"id": "b\0"}\n'),
        r".*mine\.jsonl:2: not valid JSON: Invalid control character",
    ),
]

_GENERATIONS: dict[str, tuple[object, str]] = {
    "no problem": (changed(GOOD, problem=...), r'without the key "problem"; the keys are \{"id".*'),
    "no generations": (changed(GOOD, generations=...), r'without the key "generations"; the keys are.*'),
    "another form": (PAIR | {"id": "b"}, r'without the key "problem", "generations".*'),
    "no id": (changed(GOOD, id=...), r'either all rows have the key "id" or none.*'),
    "an empty id": (changed(GOOD, id=""), r'key "id": expected a non-empty string or an integer, got ""'),
    "an id that is no text": (changed(GOOD, id=1.5), r'key "id": expected .*got 1\.5'),
    "a repeated id": (changed(GOOD, id="a"), r'the id "a" is that of .*mine\.jsonl:1: ids must be unique'),
    "a problem that is a list": (changed(GOOD, problem=["1"]), r'key "problem": expected a string, got \["1"\]'),
    "a blank problem": (changed(GOOD, problem=" "), r'key "problem": the string is empty \(row with id "b"\).*'),
    "an answer that is a number": (changed(GOOD, answer=2), r'key "answer": expected a string or null, got 2'),
    "generations that are null": (changed(GOOD, generations=None), r'key "generations": expected a list, got null'),
    "generations that are a text": (changed(GOOD, generations="2"), r'key "generations": expected a list, got "2"'),
    "a generation that is a text": (
        changed(GOOD, generations=["2"]),
        r'key "generations"\[0\]: expected an object with "text".*',
    ),
    "a generation without verdict": (
        changed(GOOD, generations=[{"text": "2"}]),
        r'key "generations"\[0\]: expected an object .*"correct".*',
    ),
    "a verdict in words": (
        changed(GOOD, generations=[{"text": "2", "correct": "yes"}]),
        r'key "generations"\[0\]\.correct: expected true, false or null, got "yes"',
    ),
    "a verdict that is a number": (
        changed(GOOD, generations=[{"text": "2", "correct": 1}]),
        r'key "generations"\[0\]\.correct: expected true, false or null, got 1',
    ),
    "an empty generation": (
        changed(GOOD, generations=[{"text": "", "correct": True}]),
        r'key "generations"\[0\]\.text: the string is empty.*',
    ),
    "a generation that is null": (
        changed(GOOD, generations=[{"text": None, "correct": True}]),
        r'key "generations"\[0\]\.text: expected a string, got null',
    ),
    "a reason that is a number": (
        changed(GOOD, generations=[{"text": "2", "correct": True, "finish_reason": 3}]),
        r'key "generations"\[0\]\.finish_reason: expected a string or null, got 3',
    ),
}

_CHATS: dict[str, tuple[dict[str, Any], str]] = {
    "no verdict": (changed(CHAT, id=..., correct=...), r'without the key "correct"; .*'),
    "a verdict in words": (
        changed(CHAT, id=..., correct="no"),
        r'key "correct": expected true, false or null, got "no"',
    ),
    "a system message": (
        changed(CHAT, id=..., messages=[{"role": "system", "content": "s"}, *CHAT["messages"]]),
        r'key "messages": only conversations of one turn .* got \["system", "user", "assistant"\]: drop the other.*',
    ),
    "a second turn": (
        changed(CHAT, id=..., messages=CHAT["messages"] * 2),
        r'key "messages": .*only conversations of one turn .*',
    ),
    "messages that are text": (changed(CHAT, id=..., messages="2"), r'key "messages": expected a list, got "2"'),
    "content in parts": (
        changed(CHAT, id=..., messages=[CHAT["messages"][0], {"role": "assistant", "content": [{"text": "2"}]}]),
        r'key "messages": expected a string, got \[\{.*',
    ),
    "another answer to the same prompt": (
        changed(CHAT, id=..., answer="3"),
        r'key "answer": "3", but an earlier row with the same prompt \(id "0"\) says "2": correct one of them',
    ),
}

_PAIRS: dict[str, tuple[dict[str, Any], str]] = {
    "no rejected": (changed(PAIR, id=..., rejected=...), r'without the key "rejected"; .*'),
    "an empty chosen": (changed(PAIR, id=..., chosen=""), r'key "chosen": the string is empty \(row with id "1"\).*'),
    "a rejected that is null": (changed(PAIR, id=..., rejected=None), r'key "rejected": expected a string, got null'),
    "a system turn": (
        changed(PAIR, id=..., prompt=[{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]),
        r'key "prompt": only conversations of one turn .*: drop the other messages.*',
    ),
    "no turn": (
        changed(PAIR, id=..., chosen=[]),
        r'key "chosen": only conversations of one turn .* got \[\]: drop the other messages.*',
    ),
    "a message that is no object": (
        changed(PAIR, id=..., chosen=["x"]),
        r'key "chosen": only conversations of one turn .* got \[null\]: drop the other messages.*',
    ),
    "a message without content": (
        changed(PAIR, id=..., chosen=[{"role": "assistant"}]),
        r'key "chosen": expected a string, got null',
    ),
    "another prompt inside": (
        changed(PAIR, id=..., chosen=[{"role": "user", "content": "?"}, {"role": "assistant", "content": "2"}]),
        r'key "chosen": the message of the user is not the prompt of this row.*',
    ),
    "a problem's row": (GOOD, r'without the key "chosen", "rejected"; .*'),
}


def _corpora() -> list[Case]:  # noqa: C901 (a table)
    """What is wrong with a corpus as a whole, or where it lies."""
    wrong = changed(GOOD, generations=[{"text": "3", "correct": False}])

    def folder(*names: str) -> Command:
        def command(world: World) -> list[str]:
            for name in names:
                world.write(f"data/{name}", line(GOOD))
            (world.folder / "data").mkdir(parents=True, exist_ok=True)
            return [
                *SMALL,
                "logger=none",
                "data=jsonl",
                "data.source.num_heldout=0",
                f"data.path={world.folder / 'data'}",
            ]

        return command

    def more(name: str, *arguments: str) -> Command:
        return lambda world: [
            *SMALL,
            "logger=none",
            "data=jsonl",
            f"data.path={world.write(name, line(GOOD))}",
            *arguments,
        ]

    def of(source: str, row: dict[str, Any]) -> Command:
        return lambda world: [
            *SMALL,
            "logger=none",
            f"data={source}",
            "data.batch_size=2",
            f"data.path={world.rows('mine.jsonl', row)}",
        ]

    def curated(spoil: Callable[[World], object]) -> Command:
        def command(world: World) -> list[str]:
            world.write("curated/here", "")
            spoil(world)
            return [*SMALL, "logger=none", "data=curated", f"data.path={world.folder / 'curated'}"]

        return command

    def other_columns(world: World) -> None:
        for name in ("sft", "pairs", "negatives"):
            world.write(f"curated/{name}.parquet", parquet([{"a": 1}]))

    def no_parquet(world: World) -> None:
        for name in ("sft", "pairs", "negatives"):
            world.write(f"curated/{name}.parquet", b"PAR1")

    return [
        Case("nothing right in it", training("mine.jsonl", line(wrong)), r".*mine\.jsonl: no row is left to train on, which needs a right generation: .*'no correct generation': 1.*"),
        Case("too few to hold out", more("mine.jsonl", "data.source.num_heldout=3"), r".*mine\.jsonl: num_heldout=3 .*only 1 different problems .*: set data\.source\.num_heldout"),
        Case("a format nobody knows", more("mine.jsonl", "data.source.format=csv"), r".*format=.*csv.*"),
        Case("both forms", training("mine.jsonl", line(GOOD | PAIR)), r".*mine\.jsonl:1: the keys fit several forms: set data\.source\.format to generations or pairs"),
        Case("neither form", training("mine.jsonl", line({"question": "?"})), r".*mine\.jsonl:1: the keys are \{\"question\"\}, expected .*: rename or add them"),
        Case("a revision of a file", more("mine.jsonl", "data.source.revision=main", "data.source.num_heldout=0"), r".*is local and has no revisions: drop revision='main'"),
        Case("an empty folder", folder(), r".*data: no \.jsonl, \.jsonl\.gz, \.parquet file in this folder"),
        Case("a folder of other splits", folder("test.jsonl"), r".*data: no file of split 'train'; there is test"),
        Case("a folder with a stray file", folder("train.jsonl", "more.jsonl"), r".*data: some files are named after a split, more\.jsonl is not: give one"),
        Case("a folder of two formats", folder("train.jsonl", "train.parquet"), r".*data: JSONL and Parquet files side by side: give one"),
        Case("a folder of save_to_disk, damaged", folder("dataset_info.json"), r".*data: not a readable data set of save_to_disk: .*"),
        Case("OpenR1-Math-Raw: other columns", of("openr1_math", GOOD), r".*mine\.jsonl:1: not a row of OpenR1-Math-Raw: without problem_is_valid"),
        Case("OpenR1-Math-Raw: sources as text", lambda world: [*of("openr1_math", RAW)(world), "data.source.excluded_sources=cn_k12"], r"data\.source\.excluded_sources=cn_k12: must be a list"),
        Case("OpenR1-Math-Raw: nothing left", of("openr1_math", RAW | {"problem_is_valid": "No"}), r".*mine\.jsonl: no row is left to train on, which needs a right generation: .*problem_is_valid.*"),
        Case("OpenR1-Math-Raw: lists that do not match", of("openr1_math", RAW | {"generations": ["2", "3"]}), r".*mine\.jsonl: no row is left to train on, which needs a right generation: .*verdict lists do not match.*"),
        Case("OpenR1-Math-220k: other columns", of("openr1_220k", RAW), r".*mine\.jsonl:1: not a row of OpenR1-Math-220k: .*"),
        Case("a curation that is none", curated(lambda _: None), r"data\.path=.*curated: no sft\.parquet there; give the results folder"),
        Case("a curation with other columns", curated(other_columns), r".*sft\.parquet: without the columns .*; curate again"),
        Case("a curation that is damaged", curated(no_parquet), r".*sft\.parquet: not a readable Parquet file: .*; curate again"),
    ]  # fmt: skip


def _curations() -> list[Case]:
    def curate(row: object, *arguments: str) -> Command:
        return lambda world: [
            "curate",
            "data=jsonl",
            "curation.num_workers=0",
            f"data.path={world.rows('mine.jsonl', GOOD, row)}",
            *arguments,
        ]

    def benchmark(content: str) -> Command:
        def command(world: World) -> list[str]:
            file = world.write("bench.jsonl", content)
            return [*curate(changed(GOOD))(world), f"curation.benchmarks=[{file}]"]

        return command

    def preview(name: str, content: bytes) -> Command:
        def command(world: World) -> list[str]:
            world.write("curated/sft.parquet", parquet([{"completion": "2", "source": "x"}]))
            world.write("curated/pairs.parquet", parquet([{"problem": "?", "chosen": "2", "rejected": "3"}]))
            world.write(f"curated/{name}", content)
            return ["curate", "preview", f"path={world.folder / 'curated'}"]

        return command

    return [
        Case("a bad row", curate(changed(GOOD, problem=3)), r'.*mine\.jsonl:2: key "problem": expected a string, got 3'),
        Case("ready pairs to be graded", lambda w: ["curate", "data=jsonl", "curation=grader", "data.source.format=pairs", f"data.path={w.rows('p.jsonl', PAIR)}"], r"curation\.grader=missing: ready pairs carry no answers to grade against"),
        Case("limits without tokenizer", curate(changed(GOOD), "data.max_prompt_tokens=9"), r"data\.max_prompt_tokens counts tokens of the student: give its tokenizer"),
        Case("an unknown order", curate(changed(GOOD), "curation.pair_order=best"), r"curation\.pair_order=best: must be one of first, random"),
        Case("a threshold above 1", curate(changed(GOOD), "curation.near_threshold=2"), r"curation\.near_threshold=2\.0: must be in \(0, 1\]"),
        Case("benchmarks that are no list", curate(changed(GOOD), "curation.benchmarks=a"), r"curation\.benchmarks=a: must be a list, each item a text"),
        Case("a benchmark that is not there", curate(changed(GOOD), "curation.benchmarks=[/nowhere]"), r"curation\.benchmarks: /nowhere: no such file; give JSONL"),
        Case("a benchmark without problems", benchmark(""), r".*bench\.jsonl.*"),
        Case("a benchmark of other keys", benchmark('{"question": "?"}\n'), r".*bench\.jsonl:1.*problem.*"),
        Case("a tokenizer that is not there", curate(changed(GOOD), "curation.tokenizer=/nowhere"), r".*/nowhere.*"),
        Case("preview: pairs damaged", preview("pairs.parquet", b"PAR1"), r".*pairs\.parquet: not a readable Parquet file: .*; curate again"),
        Case("preview: other columns", preview("pairs.parquet", parquet([{"a": 1}])), r".*pairs\.parquet: without the columns chosen, problem, rejected: not written"),
        Case("preview: manifest damaged", preview("manifest.json", b"{"), r".*manifest\.json is damaged: .*; curate again"),
        Case("preview: manifest no object", preview("manifest.json", b"\xff\xfe"), r".*manifest\.json is damaged: .*; curate again"),
    ]  # fmt: skip


def _gradings() -> list[Case]:
    def pipe(world: World) -> list[str]:
        os.mkfifo(world.write("mine.jsonl", "").with_name("pipe.jsonl"))
        return ["grade", str(world.folder / "pipe.jsonl")]

    def grade(content: bytes, *arguments: str) -> Command:
        return lambda world: ["grade", str(world.write("mine.jsonl", content)), *arguments]

    good = {"prediction": "2", "gold": "2"}
    return [
        Case("a pipe", pipe, r".*pipe\.jsonl: is a pipe or a device, .*; write it to a file first"),
        Case("an empty file", grade(b""), r".*mine\.jsonl: holds no rows; expected one JSON object"),
        Case("no prediction", grade(line({"gold": "2"})), r".*mine\.jsonl:1:prediction: missing; the row has gold \(name it by prediction=KEY\)"),
        Case("no gold", grade(line(good) + line({"prediction": "2"})), r".*mine\.jsonl:2:gold: missing; the row has prediction \(name it by gold=KEY\)"),
        Case("a key that is not there", grade(line(good), "gold=answer"), r".*mine\.jsonl:1:answer: missing; the row has prediction, gold"),
        Case("a prediction that is null", grade(line(good | {"prediction": None})), r".*mine\.jsonl:1:prediction: expected a string, got null"),
        Case("a gold that is an object", grade(line(good | {"gold": {}})), r".*mine\.jsonl:1:gold: expected a string, a number or a list of them, got an object"),
        Case("no accepted answer", grade(line(good | {"gold": []})), r".*mine\.jsonl:1:gold: the list is empty; give one accepted answer"),
        Case("an empty gold", grade(line(good | {"gold": " "})), r".*mine\.jsonl:1:gold: is empty; give the accepted answer"),
        Case("a gold that is true", grade(line(good | {"gold": True})), r".*mine\.jsonl:1:gold: expected a string, a number .* got true or false"),
        Case("a verdict already there", grade(line(good | {"verdict": "right"})), r".*mine\.jsonl:1:verdict: is there already .*; rename or remove it"),
        Case("a truncated line", grade(line(good) + b'{"prediction": "2'), r".*mine\.jsonl:2: not valid JSON: .*cut off"),
        Case("a folder", lambda world: ["grade", str(world.write("x/y", "").parent)], r".*/x: cannot be read: .*directory.*"),
    ]  # fmt: skip


def _benchmarks() -> list[Case]:
    def evaluate(name: str, content: bytes, *arguments: str) -> Command:
        return lambda world: [
            "evaluate",
            f"checkpoint={world.model}",
            "eval=jsonl",
            f"eval.path={world.write(name, content)}",
            "logger=none",
            "eval.num_samples=1",
            "eval.max_new_tokens=4",
            *arguments,
        ]

    good = {"problem": "1+1?", "answer": "2"}
    return [
        Case("an empty file", evaluate("b.jsonl", b""), r".*benchmark b: .*"),
        Case("a truncated line", evaluate("b.jsonl", line(good) + b'{"problem'), r".*b\.jsonl:2: not valid JSON: .*"),
        Case("invalid UTF-8", evaluate("b.jsonl", b'{"problem": "\xff"}\n'), r".*b\.jsonl:1: not valid UTF-8.*save it as UTF-8"),
        Case("a key twice", evaluate("b.jsonl", b'{"problem": "1", "problem": "2", "answer": "2"}\n'), r".*b\.jsonl:1: .*key \"problem\" is there twice"),
        Case("half a surrogate pair", evaluate("b.jsonl", b'{"problem": "\\ud83d", "answer": "2"}\n'), r".*b\.jsonl:1: holds half of a surrogate pair"),
        Case("a byte order mark is no mistake, the row is", evaluate("b.jsonl", b"\xef\xbb\xbf" + line({"problem": ""})), r".*b\.jsonl:1:problem: .* got ''"),
        Case("no problem", evaluate("b.jsonl", line({"answer": "2"})), r".*b\.jsonl:1:problem: .* got None"),
        Case("no answer", evaluate("b.jsonl", line({"problem": "?"})), r".*b\.jsonl:1:answer: .* got None"),
        Case("an answer that is NaN", evaluate("b.jsonl", b'{"problem": "?", "answer": NaN}\n'), r".*b\.jsonl:1: .*NaN.*"),
        Case("answers that are empty", evaluate("b.jsonl", line({"problem": "?", "answers": []})), r".*b\.jsonl:1:answers: .* got \[\]"),
        Case("an id that is true", evaluate("b.jsonl", line(good | {"id": True})), r".*b\.jsonl:1:id: .* got True"),
        Case("a repeated id", evaluate("b.jsonl", line(good | {"id": 1}) * 2), r".*rows 1 and 2 share the id '1'; make ids unique"),
        Case("a row that is a list", evaluate("b.jsonl", b"[1]\n"), r".*b\.jsonl:1: .*object.*"),
        Case("JSON that is no list", evaluate("b.json", line(good)), r".*b\.json: .* got dict; .*"),
        Case("JSON cut off", evaluate("b.json", b"[" + line(good)), r".*b\.json: not valid JSON: .*"),
        Case("a column that is not there", evaluate("b.jsonl", line({"q": "?"}), "eval.problem_key=question"), r".*b\.jsonl:1:question: .* got None"),
        Case("gzip under a plain name", evaluate("b.jsonl", gzip.compress(line(good))), r".*b\.jsonl.*gzip.*"),
    ]  # fmt: skip


KINDS = {
    "a file of rows": _FILES,
    "a line of JSON": _LINES,
    "a row of generations": [
        Case(n, after_a_good_row(r), rf".*mine\.jsonl:2: {m}") for n, (r, m) in _GENERATIONS.items()
    ],
    "a ready pair": [Case(n, after_a_good_pair(r), rf".*mine\.jsonl:2: {m}") for n, (r, m) in _PAIRS.items()],
    "a chat": [Case(n, after_a_good_chat(r), rf".*mine\.jsonl:2: {m}") for n, (r, m) in _CHATS.items()],
    "a corpus": _corpora(),
    "what `curate` reads": _curations(),
    "what `grade` reads": _gradings(),
    "problems of `evaluate`": _benchmarks(),
}
