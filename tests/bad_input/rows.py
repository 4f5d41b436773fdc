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

from redi_lab.evaluation.benchmarks import load_file_benchmark
from redi_lab.verbs.grade import check_rows
from tests.bad_input.world import SMALL, Act, Case, World, load_corpus

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
WRONG = {**GOOD, "generations": [{"text": "3", "correct": False}]}


def marked(**columns: object) -> dict[str, Any]:
    """A row whose one generation, of five characters, also has these."""
    return {**GOOD, "id": "b", "generations": [{"text": "1+1=2", "correct": True, **columns}]}


def line(row: object) -> bytes:
    return json.dumps(row).encode() + b"\n"


def changed(row: dict[str, Any], **changes: object) -> dict[str, Any]:
    """With other values; ... removes the key."""
    return {key: value for key, value in (row | {"id": "b"} | changes).items() if value is not ...}


def parquet(rows: Sequence[dict[str, Any]] | pa.Table, keep: int | None = None) -> bytes:
    table = rows if isinstance(rows, pa.Table) else pa.Table.from_pylist(list(rows))
    stream = io.BytesIO()
    pyarrow.parquet.write_table(table.slice(0, keep), stream)
    return stream.getvalue()


def reading(name: str, content: bytes, data: str = "jsonl", **source: Any) -> Act:
    """Read a file as training does."""
    return lambda world: load_corpus(world.write(name, content), data, **source)


def file(name: str, what: str, content: bytes, *parts: str) -> Case:
    return Case(what, reading(name, content), (name, *parts))


def after(first: dict[str, Any], what: str, row: object, *parts: str) -> Case:
    """A second row that is wrong: the place is the second line."""
    second = row if isinstance(row, bytes) else line(row)
    return Case(what, reading("mine.jsonl", line(first) + second), ("mine.jsonl:2", *parts))


_GZIP = gzip.compress(b"".join(line(changed(GOOD, id=i)) for i in range(99)))
_FILES = [
    file("mine.jsonl", "an empty file", b""),
    file("mine.jsonl", "only a byte order mark", b"\xef\xbb\xbf", ":1"),
    file("mine.csv", "an ending nobody knows", b"a,b\n"),
    file("mine.jsonl", "gzip under a plain name", gzip.compress(line(GOOD)), "mine.jsonl.gz"),
    file("mine.jsonl.gz", "plain under a gzip name", line(GOOD)),
    file("mine.jsonl.gz", "gzip cut off", _GZIP[:-9]),
    file("mine.jsonl.gz", "gzip with a damaged byte", gzip.compress(line(GOOD))[:20] + b"\0" * 40),
    file("mine.jsonl", "UTF-16", json.dumps(GOOD).encode("utf-16"), ":1", "UTF-8"),
    file("mine.parquet", "Parquet cut off", parquet([GOOD])[:-10]),
    file("mine.parquet", "Parquet without its beginning", b"PAR1" + parquet([GOOD])[90:]),
    file("mine.parquet", "JSON lines named Parquet", line(GOOD)),
    file("mine.jsonl.gz", "a gzip bomb of one line", gzip.compress(b'{"problem": "' + b"0" * (65 * 2**20), compresslevel=1), ":1", "67,108,864 bytes"),
    file("mine.parquet", "a Parquet column twice", parquet(pa.table([["1"], ["2"]], names=["problem", "problem"])), "problem"),
    file("mine.parquet", "a Parquet date in the year 5,000,000", parquet(pa.table({"day": pa.array([2**31 - 1], pa.int32()).cast(pa.date32())}))),
    file("mine.parquet", "Parquet without rows", parquet([GOOD], keep=0)),
]  # fmt: skip

_LINES = [
    after(GOOD, "a truncated line", b'{"id": "b", "problem": "1', "cut off"),
    after(GOOD, "two objects on a line", line(GOOD)[:-1] + line(GOOD), "column"),
    after(GOOD, "single quotes", b"{'id': 'b'}\n", "column 2"),
    after(GOOD, "a comment", b"# rows\n", "column 1"),
    after(GOOD, "a list", [GOOD], "[{"),
    after(GOOD, "null", None, "null"),
    after(GOOD, "invalid UTF-8", b'{"problem": "\xff"}\n', "byte 14"),
    after(GOOD, "half a surrogate pair", b'{"problem": "\\ud83d"}\n', "surrogate"),
    after(GOOD, "a key twice", b'{"id": "b", "id": "c"}\n', '"id"'),
    after(GOOD, "a key twice inside", b'{"g": [{"text": "2", "text": "3"}]}\n', '"text"'),
    after(GOOD, "NaN", b'{"id": NaN}\n', "NaN"),
    after(GOOD, "infinity", b'{"id": -Infinity}\n', "-Infinity"),
    after(GOOD, "a number of 5,000 digits", b'{"id": ' + b"9" * 5000 + b"}\n", "5000 digits"),
    after(GOOD, "a number out of range", b'{"id": 1e999}\n', "1e999"),
    after(GOOD, "lists 100,000 deep", b"[" * 100_000 + b"\n", "nested"),
    after(GOOD, "a NUL byte", b'{"id": "b\0"}\n', "control character"),
]

_GENERATIONS = [
    after(GOOD, "no problem", changed(GOOD, problem=...), '"problem"'),
    after(GOOD, "another form", PAIR | {"id": "b"}, '"problem"', '"generations"'),
    after(GOOD, "no id", changed(GOOD, id=...), '"id"'),
    after(GOOD, "an empty id", changed(GOOD, id=""), '"id"', 'got ""'),
    after(GOOD, "an id that is a fraction", changed(GOOD, id=1.5), '"id"', "got 1.5"),
    after(GOOD, "a repeated id", changed(GOOD, id="a"), '"a"', "mine.jsonl:1"),
    after(GOOD, "a problem that is a list", changed(GOOD, problem=["1"]), '"problem"', 'got ["1"]'),
    after(GOOD, "a blank problem", changed(GOOD, problem=" "), '"problem"', "empty"),
    after(GOOD, "an answer that is a number", changed(GOOD, answer=2), '"answer"', "got 2"),
    after(GOOD, "generations that are null", changed(GOOD, generations=None), '"generations"', "got null"),
    after(GOOD, "a generation that is a string", changed(GOOD, generations=["2"]), '"generations"[0]', '"text"'),
    after(GOOD, "a generation without verdict", changed(GOOD, generations=[{"text": "2"}]), '"generations"[0]', '"correct"'),
    after(GOOD, "a verdict in words", changed(GOOD, generations=[{"text": "2", "correct": "yes"}]), '"generations"[0].correct', 'got "yes"'),
    after(GOOD, "a verdict that is a number", changed(GOOD, generations=[{"text": "2", "correct": 1}]), '"generations"[0].correct', "got 1"),
    after(GOOD, "an empty generation", changed(GOOD, generations=[{"text": "", "correct": True}]), '"generations"[0].text', "empty"),
    after(GOOD, "a reason that is a number", changed(GOOD, generations=[{"text": "2", "correct": True, "finish_reason": 3}]), '"generations"[0].finish_reason', "got 3"),
]  # fmt: skip

_WEIGHTS = [
    after(GOOD, "a negative weight", changed(GOOD, weight=-1), 'key "weight"', "got -1"),
    after(GOOD, "a weight of a generation in words", marked(weight="2"), '"generations"[0].weight', 'got "2"'),
    after(GOOD, "a weight that is true", marked(weight=True), '"generations"[0].weight', "got true"),
    after(GOOD, "a weight out of single precision", marked(weight=1e39), '"generations"[0].weight', "got 1e+39"),
    after(GOOD, "spans that are an object", marked(spans={}), '"generations"[0].spans', "got {}"),
    after(GOOD, "a span that is a list", marked(spans=[[0, 1, 2.0]]), '"generations"[0].spans[0]', "got [0, 1, 2.0]"),
    after(GOOD, "a span without weight", marked(spans=[{"start": 0, "end": 1}]), '"generations"[0].spans[0].weight', "got null"),
    after(GOOD, "a span from before the text", marked(spans=[{"start": -1, "end": 1, "weight": 1}]), '"generations"[0].spans[0].start', "got -1"),
    after(GOOD, "a span to behind the text", marked(spans=[{"start": 0, "end": 6, "weight": 1}]), '"generations"[0].spans[0].end', "to 5", "got 6"),
    after(GOOD, "an empty span", marked(spans=[{"start": 2, "end": 2, "weight": 1}]), '"generations"[0].spans[0].end', "from 3", "got 2"),
    after(GOOD, "a span that starts at a fraction", marked(spans=[{"start": 0.5, "end": 2, "weight": 1}]), '"generations"[0].spans[0].start', "got 0.5"),
    after(GOOD, "steps that overlap", marked(steps=[{"start": 0, "end": 3}, {"start": 2, "end": 4}]), '"generations"[0].steps[1].start', "from 3", "got 2"),
    after(GOOD, "a verdict of a step in words", marked(steps=[{"start": 0, "end": 3, "right": "no"}]), '"generations"[0].steps[0].right', 'got "no"'),
    after(GOOD, "an advantage that is a string", marked(steps=[{"start": 0, "end": 3, "advantage": "1"}]), '"generations"[0].steps[0].advantage', 'got "1"'),
    after(GOOD, "spans beside the generations", changed(GOOD, spans=[]), 'key "spans"', '"generations"'),
    after(PAIR, "spans of neither side", changed(PAIR, id=..., spans=[]), 'key "spans"', '"chosen_spans"'),
    after(PAIR, "a step beyond a side", changed(PAIR, id=..., rejected_steps=[{"start": 0, "end": 2}]), '"rejected_steps"[0].end', "got 2"),
    after(CHAT, "a span beyond the assistant's message", changed(CHAT, id=..., spans=[{"start": 1, "end": 2, "weight": 1}]), '"spans"[0].start', "got 1"),
]  # fmt: skip

_CHATS = [
    after(CHAT, "no verdict", changed(CHAT, id=..., correct=...), '"correct"'),
    after(CHAT, "a verdict in words", changed(CHAT, id=..., correct="no"), '"correct"', 'got "no"'),
    after(CHAT, "a system message", changed(CHAT, id=..., messages=[{"role": "system", "content": "s"}, *CHAT["messages"]]), '"messages"', '["system", "user", "assistant"]'),
    after(CHAT, "a second turn", changed(CHAT, id=..., messages=CHAT["messages"] * 2), '"messages"'),
    after(CHAT, "messages that are a string", changed(CHAT, id=..., messages="2"), '"messages"', 'got "2"'),
    after(CHAT, "content in parts", changed(CHAT, id=..., messages=[CHAT["messages"][0], {"role": "assistant", "content": [{"text": "2"}]}]), '"messages"', "got [{"),
    after(CHAT, "another answer to the same prompt", changed(CHAT, id=..., answer="3"), '"answer"', '"3"', '"2"'),
]  # fmt: skip

_PAIRS = [
    after(PAIR, "no rejected", changed(PAIR, id=..., rejected=...), '"rejected"'),
    after(PAIR, "an empty chosen", changed(PAIR, id=..., chosen=""), '"chosen"', "empty"),
    after(PAIR, "a rejected that is null", changed(PAIR, id=..., rejected=None), '"rejected"', "got null"),
    after(PAIR, "no turn", changed(PAIR, id=..., chosen=[]), '"chosen"', "got []"),
    after(PAIR, "a message that is not an object", changed(PAIR, id=..., chosen=["x"]), '"chosen"', "got [null]"),
    after(PAIR, "a message without content", changed(PAIR, id=..., chosen=[{"role": "assistant"}]), '"chosen"', "got null"),
    after(PAIR, "another prompt inside", changed(PAIR, id=..., chosen=[{"role": "user", "content": "?"}, {"role": "assistant", "content": "2"}]), '"chosen"', "prompt"),
    after(PAIR, "a problem's row", GOOD, '"chosen"', '"rejected"'),
]  # fmt: skip


def _folder(*names: str) -> Act:
    def act(world: World) -> None:
        (world.folder / "data").mkdir(parents=True)
        for name in names:
            world.write(f"data/{name}", line(GOOD))
        load_corpus(world.folder / "data")

    return act


def _curated(spoil: Callable[[World], object]) -> Act:
    def act(world: World) -> None:
        world.write("curated/here", "")
        spoil(world)
        load_corpus(world.folder / "curated", "curated")

    return act


def _each_parquet(content: bytes) -> Callable[[World], object]:
    return lambda world: [world.write(f"curated/{name}.parquet", content) for name in ("sft", "pairs", "negatives")]


_CORPORA = [
    Case("nothing right in it, in a whole command", lambda w: [*SMALL, "logger=none", "data=jsonl", "data.source.num_heldout=0", f"data.path={w.rows('mine.jsonl', WRONG)}"], ("mine.jsonl", "'no correct generation': 1")),
    Case("too few to hold out", reading("mine.jsonl", line(GOOD), num_heldout=3), ("mine.jsonl", "num_heldout=3", "1")),
    Case("a format nobody knows", reading("mine.jsonl", line(GOOD), format="csv"), ("data.source.format=csv",)),
    file("mine.jsonl", "both forms", line(GOOD | PAIR), ":1", "data.source.format"),
    file("mine.jsonl", "neither form", line({"question": "?"}), ":1", '"question"'),
    Case("a revision of a file", reading("mine.jsonl", line(GOOD), revision="main"), ("mine.jsonl", "main")),
    Case("an empty folder", _folder(), ("data:", ".parquet")),
    Case("a folder of other splits", _folder("test.jsonl"), ("data:", "'train'", "test")),
    Case("a folder with a stray file", _folder("train.jsonl", "more.jsonl"), ("data:", "more.jsonl")),
    Case("a folder of two formats", _folder("train.jsonl", "train.parquet"), ("data:", "Parquet")),
    Case("a folder of save_to_disk, damaged", _folder("dataset_info.json"), ("data:", "save_to_disk")),
    Case("OpenR1-Math-Raw: other columns", reading("mine.jsonl", line(GOOD), "openr1_math"), ("mine.jsonl:1", "problem_is_valid")),
    Case("OpenR1-Math-Raw: nothing left", reading("mine.jsonl", line(RAW | {"problem_is_valid": "No"}), "openr1_math"), ("mine.jsonl", "problem_is_valid")),
    Case("OpenR1-Math-Raw: lists that do not match", reading("mine.jsonl", line(RAW | {"generations": ["2", "3"]}), "openr1_math"), ("mine.jsonl", "verdict lists do not match")),
    Case("OpenR1-Math-220k: other columns", reading("mine.jsonl", line(RAW), "openr1_220k"), ("mine.jsonl:1", "OpenR1-Math-220k")),
    Case("a folder that `curate` did not write", _curated(lambda _: None), ("data.path=", "curated", "sft.parquet")),
    Case("a curation with other columns", _curated(_each_parquet(parquet([{"a": 1}]))), ("sft.parquet", "column")),
    Case("a curation that is damaged", _curated(_each_parquet(b"PAR1")), ("sft.parquet", "Parquet")),
]  # fmt: skip


def _curate(row: object, *arguments: str) -> Act:
    return lambda world: [
        "curate",
        "data=jsonl",
        "curation.num_workers=0",
        f"data.path={world.rows('mine.jsonl', GOOD, row)}",
        *arguments,
    ]


def _benchmark(content: str) -> Act:
    def command(world: World) -> list[str]:
        path = world.write("bench.jsonl", content)
        return [*(_curate(changed(GOOD))(world) or ()), f"curation.benchmarks=[{path}]"]

    return command


def _preview(name: str, content: bytes) -> Act:
    def command(world: World) -> list[str]:
        world.write("curated/sft.parquet", parquet([{"completion": "2", "source": "x"}]))
        world.write("curated/pairs.parquet", parquet([{"problem": "?", "chosen": "2", "rejected": "3"}]))
        world.write(f"curated/{name}", content)
        return ["curate", "preview", f"path={world.folder / 'curated'}"]

    return command


_CURATIONS = [
    Case("a bad row", _curate(changed(GOOD, problem=3)), ("mine.jsonl:2", '"problem"', "got 3")),
    Case("ready pairs to be graded", _curate(PAIR, "curation=grader", "data.source.format=pairs"), ("curation.grader=missing",)),
    Case("limits without tokenizer", _curate(changed(GOOD), "data.max_prompt_tokens=9"), ("data.max_prompt_tokens", "curation.tokenizer")),
    Case("a benchmark that is not there", _curate(changed(GOOD), "curation.benchmarks=[/nowhere]"), ("curation.benchmarks", "/nowhere")),
    Case("a benchmark without problems", _benchmark(""), ("bench.jsonl",)),
    Case("a benchmark of other keys", _benchmark('{"question": "?"}\n'), ("bench.jsonl:1", "problem")),
    Case("a tokenizer that is not there", _curate(changed(GOOD), "curation.tokenizer=/nowhere"), ("/nowhere",)),
    Case("preview: pairs damaged", _preview("pairs.parquet", b"PAR1"), ("pairs.parquet",)),
    Case("preview: other columns", _preview("pairs.parquet", parquet([{"a": 1}])), ("pairs.parquet", "chosen, problem, rejected")),
    Case("preview: manifest damaged", _preview("manifest.json", b"{"), ("manifest.json",)),
]  # fmt: skip


def _pipe(world: World) -> list[str]:
    os.mkfifo(world.write("mine.jsonl", "").with_name("pipe.jsonl"))
    return ["grade", str(world.folder / "pipe.jsonl")]


def _grade(what: str, content: bytes, *parts: str, gold: str = "gold") -> Case:
    def act(world: World) -> None:
        check_rows(world.write("mine.jsonl", content), prediction="prediction", gold=gold)

    return Case(what, act, ("mine.jsonl", *parts))


_ROW = {"prediction": "2", "gold": "2"}
_GRADINGS = [
    Case("a pipe", _pipe, ("pipe.jsonl",)),
    Case("a folder", lambda world: ["grade", str(world.write("x/y", "").parent)], ("/x:", "directory")),
    _grade("no rows", b""),
    _grade("no prediction", line({"gold": "2"}), ":1:prediction", "gold"),
    _grade("no gold", line(_ROW) + line({"prediction": "2"}), ":2:gold", "prediction"),
    _grade("a key that is not there", line(_ROW), ":1:answer", "prediction, gold", gold="answer"),
    _grade("a prediction that is null", line(_ROW | {"prediction": None}), ":1:prediction", "null"),
    _grade("a gold that is an object", line(_ROW | {"gold": {}}), ":1:gold", "object"),
    _grade("no accepted answer", line(_ROW | {"gold": []}), ":1:gold", "empty"),
    _grade("an empty gold", line(_ROW | {"gold": " "}), ":1:gold", "empty"),
    _grade("a gold that is true", line(_ROW | {"gold": True}), ":1:gold", "true or false"),
    _grade("a verdict already there", line(_ROW | {"verdict": "right"}), ":1:verdict"),
    _grade("a truncated line", line(_ROW) + b'{"prediction": "2', ":2", "cut off"),
]


def _evaluate(content: bytes, *arguments: str) -> Act:
    return lambda world: [
        "evaluate",
        f"checkpoint={world.model}",
        "eval=jsonl",
        f"eval.path={world.write('b.jsonl', content)}",
        "logger=none",
        *arguments,
    ]


def _problems(what: str, name: str, content: bytes, *parts: str) -> Case:
    def act(world: World) -> None:
        load_file_benchmark(world.write(name, content))

    return Case(what, act, (name.partition(".")[0], *parts))


_ASKED = {"problem": "1+1?", "answer": "2"}
_BENCHMARKS = [
    Case("no problem, in a whole command", _evaluate(b""), ("b",)),
    _problems("a truncated line", "b.jsonl", line(_ASKED) + b'{"problem', "b.jsonl:2"),
    _problems("invalid UTF-8", "b.jsonl", b'{"problem": "\xff"}\n', "b.jsonl:1", "UTF-8"),
    _problems("a key twice", "b.jsonl", b'{"problem": "1", "problem": "2", "answer": "2"}\n', "b.jsonl:1", '"problem"'),
    _problems("half a surrogate pair", "b.jsonl", b'{"problem": "\\ud83d", "answer": "2"}\n', "b.jsonl:1", "surrogate"),
    _problems("a byte order mark, and an empty problem", "b.jsonl", b"\xef\xbb\xbf" + line({"problem": ""}), "b.jsonl:1:problem", "''"),
    _problems("no answer", "b.jsonl", line({"problem": "?"}), "b.jsonl:1:answer"),
    _problems("an answer that is NaN", "b.jsonl", b'{"problem": "?", "answer": NaN}\n', "b.jsonl:1", "NaN"),
    _problems("answers that are empty", "b.jsonl", line({"problem": "?", "answers": []}), "b.jsonl:1:answers"),
    _problems("an id that is true", "b.jsonl", line(_ASKED | {"id": True}), "b.jsonl:1:id", "True"),
    _problems("a repeated id", "b.jsonl", line(_ASKED | {"id": 1}) * 2, "1 and 2", "'1'"),
    _problems("a row that is a list", "b.jsonl", b"[1]\n", "b.jsonl:1"),
    _problems("JSON that is an object", "b.json", line(_ASKED), "b.json", "list"),
    _problems("JSON cut off", "b.json", b"[" + line(_ASKED), "b.json"),
    Case("a column that is not there", _evaluate(line({"q": "?"}), "eval.problem_key=question"), ("b.jsonl:1:question",)),
    _problems("gzip under a plain name", "b.jsonl", gzip.compress(line(_ASKED)), "b.jsonl", "gzip"),
]  # fmt: skip


KINDS = {
    "a file of rows": _FILES,
    "a line of JSON": _LINES,
    "a row of generations": _GENERATIONS,
    "weights of a row": _WEIGHTS,
    "a chat": _CHATS,
    "a ready pair": _PAIRS,
    "a corpus": _CORPORA,
    "what `curate` reads": _CURATIONS,
    "what `grade` reads": _GRADINGS,
    "problems of `evaluate`": _BENCHMARKS,
}
