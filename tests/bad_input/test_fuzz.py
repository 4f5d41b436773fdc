# ruff: noqa: E501 (strategies are tables)
"""Whatever is fed to a reader: it succeeds and accounts for all of it, or it raises `UserError` with one line.

Derandomised, so that a failure is the same for everybody; `-m slow` tries many more.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from redi_lab.backbone.weights import check_folder
from redi_lab.config.compose import check, load_config
from redi_lab.data.openr1 import OpenR1Source
from redi_lab.data.openr1_220k import OpenR1Math220kSource
from redi_lab.data.readers import TraceFileSource
from redi_lab.data.traces import TraceSource
from redi_lab.errors import UserError
from redi_lab.evaluation.benchmarks import load_file_benchmark
from redi_lab.run.arguments import check_arguments
from redi_lab.run.interrupted import RECORD, read_run, recorded_overrides
from redi_lab.verbs.grade import check_rows
from redi_lab.verbs.sweep.space import grid, parse_space
from tests.bad_input.rows import GOOD, PAIR, RAW
from tests.bad_input.rows import changed as other_row
from tests.config.test_settings import changed

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**30), 10**30),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["", " ", "2", "Yes", "yes", "nan", "\ud83d", "\0", "${x}", "../x", "<script>", "9" * 5000]),
)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
VALID: list[dict[str, Any]] = [
    GOOD,
    PAIR,
    RAW,
    {"prediction": "2", "gold": "2"},
    other_row(PAIR, answer="3"),
    {"problem": "?", "answers": [1, "2"]},
]
RAW_220K = {**RAW, "uuid": "u", "correctness_math_verify": [True], "correctness_llama": None, "finish_reasons": None}


def fuzz(check: Callable[..., None], examples: int, **strategies: Any) -> None:
    """Call `check` with this many examples, the same ones in every run."""
    options = settings(
        max_examples=examples, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )
    options(given(**strategies)(check))()


def sizes(quick: int, many: int) -> Any:
    return pytest.mark.parametrize("examples", [quick, pytest.param(many, marks=pytest.mark.slow)])


@contextlib.contextmanager
def refused(*parts: str) -> Any:
    """Allow a refusal in one line that names all `parts`."""
    message = None
    try:
        yield
    except UserError as error:
        message = str(error)
    if message is not None:
        assert message.strip()
        assert "\n" not in message
        assert all(part in message for part in parts), message


def _leaves(node: Any, prefix: str = "") -> list[str]:
    if not isinstance(node, dict):
        return [prefix]
    return [prefix, *(leaf for k, v in node.items() for leaf in _leaves(v, f"{prefix}.{k}" if prefix else str(k)))]


def _keys() -> list[str]:
    content = OmegaConf.to_container(load_config("train", []), resolve=False)
    return [
        *filter(None, _leaves(content)),
        "experiment",
        "foo",
        "loss.foo",
        "trainer.max_time",
        "model.lora.rank",
        "model/lora",
        "hydra.x",
        "",
    ]


WORDS = st.sampled_from(
    ["", "0", "-1", "1", "2", "1e9", "1.5", "nan", "-inf", "null", "true", "x", "../x", "/", "???", "[]", "[1,2]", "{}", "{a:1}", "'", "a,b",
     "${seed}", "${nowhere}", "${oc.env:NOWHERE}", "os.system", "redi", "demo", "cpu", "none", "1" * 400, "é", "a b", "[null]", "init", "{_target_:os.system}"]
)  # fmt: skip
VALUES = st.one_of(WORDS, st.text(max_size=6), st.integers().map(str), st.floats().map(str))


@sizes(2, 1000)
def test_any_override_is_taken_or_refused(examples: int) -> None:
    def check(overrides: list[tuple[str, str, str]]) -> None:
        words = [f"{sign}{key}" if sign == "~" else f"{sign}{key}={value}" for sign, key, value in overrides]
        with refused():
            check_arguments(load_config("train", words))

    override = st.tuples(st.sampled_from(["", "", "", "", "+", "++", "~"]), st.sampled_from(_keys()), VALUES)
    fuzz(check, examples, overrides=st.lists(override, min_size=1, max_size=3))


@sizes(20, 2000)
def test_any_value_of_a_setting_is_taken_as_it_is_or_refused(examples: int) -> None:
    def check_one(key: str, value: Any) -> None:
        config = changed("train", key, value)
        with refused():
            check(config, "train")
            check_arguments(config)
            if isinstance(value, int | float) and not isinstance(value, bool):
                assert OmegaConf.select(config, key) in (value, str(value))

    keys = [key for key in _keys() if key and not key.startswith("hydra")]
    plain = st.none() | st.booleans() | st.integers(-3, 10**30) | st.floats() | st.text("ab/.{}é ", max_size=5)
    value = plain | st.lists(plain, max_size=2) | st.dictionaries(st.text("ab", min_size=1), plain, max_size=2)
    fuzz(check_one, examples, key=st.sampled_from(keys), value=value)


SPACES = st.dictionaries(
    st.sampled_from(["loss", "loss.alpha", "optimizer.lr", "seed", "x"]),
    st.fixed_dictionaries(
        {}, optional={name: SCALARS for name in ("low", "high", "log", "step", "type", "when", "choices", "x")}
    )
    | JSON,
    max_size=3,
)


@sizes(100, 20000)
def test_any_search_space_is_read_or_refused(examples: int) -> None:
    def check(space: Any) -> None:
        with refused("sweep.space"):
            parsed = parse_space(space)
            assert {parameter.path for parameter in parsed} == set(space)
            if all(len(str(p.ends()[-1])) < 4 for p in parsed):
                grid(parsed)

    fuzz(check, examples, space=SPACES)


def mutated(rows: list[dict[str, Any]]) -> st.SearchStrategy[bytes]:
    """Files of rows of which some lost, gained or changed a key, and some bytes are others."""
    keys = sorted({key for row in rows for key in row} | {"id", "x"})
    change = st.tuples(st.sampled_from(keys), st.one_of(st.just(...), JSON))

    def row(base: dict[str, Any], changes: list[tuple[str, Any]], number: int) -> dict[str, Any]:
        content = {**base, **({"id": str(number)} if "id" in base else {}), **dict(changes)}
        return {key: value for key, value in content.items() if value is not ...}

    one = st.tuples(st.sampled_from(rows), st.lists(change, max_size=2))

    def text(parts: list[tuple[dict[str, Any], list[tuple[str, Any]]]], noise: tuple[int, bytes] | None) -> bytes:
        lines = "".join(json.dumps(row(base, changes, n)) + "\n" for n, (base, changes) in enumerate(parts)).encode()
        if noise is None:
            return lines
        place = noise[0] % (len(lines) + 1)
        return lines[:place] + noise[1] + lines[place + len(noise[1]) :]

    noise = st.none() | st.tuples(st.integers(0, 10**6), st.binary(min_size=1, max_size=4))
    return st.builds(text, st.lists(one, max_size=4), noise)


@contextlib.contextmanager
def file_of(content: bytes, name: str) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(content)
        yield path


def num_lines(content: bytes) -> int:
    return sum(1 for line in content.removeprefix(b"\xef\xbb\xbf").split(b"\n") if line.strip())


SOURCES: dict[str, tuple[Callable[[str], TraceSource], list[dict[str, Any]]]] = {
    "generations": (
        lambda path: TraceFileSource(path),
        [GOOD, other_row(GOOD, generations=[{"text": "3", "correct": False}])],
    ),
    "pairs": (lambda path: TraceFileSource(path), [PAIR]),
    "held out": (lambda path: TraceFileSource(path, num_heldout=1), [GOOD, other_row(GOOD, problem="2+2?")]),
    "openr1": (lambda path: OpenR1Source(path), [RAW]),
    "openr1_220k": (lambda path: OpenR1Math220kSource(path), [RAW_220K, {**RAW_220K, "uuid": "v"}]),
}


@sizes(20, 15000)
@pytest.mark.parametrize("name", SOURCES)
def test_any_file_of_rows_is_accounted_for_or_refused(name: str, examples: int) -> None:
    make, valid = SOURCES[name]

    def check(content: bytes) -> None:
        with file_of(content, "mine.jsonl") as path, refused("mine.jsonl" if name != "openr1_220k" else ""):
            counts = make(str(path)).load().counts
            assert counts.rows_read == num_lines(content)
            counts.check()

    fuzz(check, examples, content=mutated(valid) | st.binary(max_size=40))


@sizes(6, 5000)
def test_any_parquet_file_is_accounted_for_or_refused(examples: int) -> None:
    def check(rows: list[dict[str, Any]], noise: tuple[int, bytes]) -> None:
        try:
            stream = pa.BufferOutputStream()
            pyarrow.parquet.write_table(pa.Table.from_pylist(rows), stream)
        except (pa.ArrowException, OverflowError, UnicodeEncodeError, TypeError):
            return
        content = stream.getvalue().to_pybytes()
        place = noise[0] % len(content)
        for damaged in (content, content[:place], content[:place] + noise[1] + content[place + len(noise[1]) :]):
            with file_of(damaged, "mine.parquet") as path, refused("mine.parquet"):
                counts = TraceFileSource(str(path)).load().counts
                if damaged is content:
                    assert counts.rows_read == len(rows)

    row = st.fixed_dictionaries(
        {"problem": SCALARS, "generations": st.just(GOOD["generations"]) | JSON}, optional={"id": SCALARS}
    )
    noise = st.tuples(st.integers(0, 10**6), st.binary(min_size=1, max_size=4))
    fuzz(check, examples, rows=st.lists(st.just(other_row(GOOD, id=...)) | row, min_size=1, max_size=3), noise=noise)


@sizes(20, 15000)
def test_any_benchmark_file_is_read_whole_or_refused(examples: int) -> None:
    def check(content: bytes) -> None:
        with file_of(content, "mine.jsonl") as path, refused("mine"):
            assert len(load_file_benchmark(path).problems) == num_lines(content)

    fuzz(check, examples, content=mutated(VALID[-1:]) | st.binary(max_size=40))


@sizes(20, 15000)
def test_any_file_to_grade_is_checked_whole_or_refused(examples: int) -> None:
    def check(content: bytes) -> None:
        with file_of(content, "mine.jsonl") as path, refused("mine.jsonl"):
            assert check_rows(path, prediction="prediction", gold="gold") == num_lines(content)

    fuzz(check, examples, content=mutated([VALID[3]]) | st.binary(max_size=40))


@sizes(20, 10000)
def test_any_damage_to_a_model_folder_is_refused_or_harmless(examples: int, qwen_folder: Path) -> None:
    names = ("config.json", "model.safetensors")
    sound = {name: (qwen_folder / name).read_bytes() for name in names}

    def check(name: str, place: int, noise: bytes, is_cut: bool) -> None:
        with tempfile.TemporaryDirectory() as made:
            folder = Path(made)
            for each, content in sound.items():
                (folder / each).write_bytes(content)
            where = place % min(len(sound[name]), 2000)  # the header
            (folder / name).write_bytes(
                sound[name][:where] + noise + (b"" if is_cut else sound[name][where + len(noise) :])
            )
            with refused(made):
                check_folder(folder, "checkpoint")

    strategies = {"place": st.integers(0, 10**6), "noise": st.binary(max_size=9), "is_cut": st.booleans()}
    fuzz(check, examples, name=st.sampled_from(names), **strategies)


@sizes(20, 10000)
def test_any_record_of_a_run_is_read_or_refused(examples: int) -> None:
    valid = {
        "overrides": ["seed=1"],
        "working_dir": os.getcwd(),
        "paths": {"outputs_dir": "x"},
        "stages": {},
        "command": "0",
        "began": 1.5,
    }

    def check(content: Any) -> None:
        with (
            file_of(json.dumps(content).encode(), RECORD) as path,
            refused(RECORD if not isinstance(content, dict) else ""),
        ):
            run = read_run(path.parent)
            assert all(isinstance(o, str) for o in [*run.overrides, *recorded_overrides([f"resume={path.parent}"])])

    record = st.fixed_dictionaries(
        {}, optional={key: st.just(value) | JSON for key, value in valid.items()} | {"x": JSON}
    )
    fuzz(check, examples, content=record.map(lambda r: valid | r) | record | JSON)
