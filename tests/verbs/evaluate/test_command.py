"""`evaluate` on one benchmark and on a suite, from the command line."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from redi_lab.cli import main
from redi_lab.config.compose import load_config
from redi_lab.data.arithmetic import ArithmeticSource
from redi_lab.data.teacher import HASTE
from redi_lab.errors import UserError
from redi_lab.evaluation.benchmarks import Benchmark, EvalProblem
from redi_lab.evaluation.evaluate import Evaluation
from redi_lab.generation.engines import SamplingParams
from redi_lab.run.evaluation import _fitted, make_evaluation
from redi_lab.verifiers.base import Limits
from redi_lab.verifiers.math import MathVerifier
from tests.evaluation.scripted_engine import ScriptedEngine

SUITE = ("math500", "aime24", "amc23_paper", "minerva_paper", "olympiadbench_paper")


@pytest.fixture
def evaluate(qwen_folder: Path, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """A function that runs `evaluate` on the tiny checkpoint and reads the summary."""

    def run(*overrides: str, folder: Path = tmp_path / "run") -> dict[str, Any]:
        places = [f"paths.outputs_dir={tmp_path / 'outputs'}", f"paths.output_dir={folder}", "logger=none"]
        main(["evaluate", f"checkpoint={qwen_folder}", *places, "eval.max_new_tokens=8", *overrides])
        summary: dict[str, Any] = json.loads((folder / "summary.json").read_text())
        return summary

    return run


@pytest.fixture(scope="module")
def suite(qwen_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The paper's suite with two problems a member, evaluated; the folder of the run and what was shown."""
    root = tmp_path_factory.mktemp("suite")
    overrides = ["eval=paper_suite", "eval.num_samples=2", "eval.fit_context=false", "eval.max_new_tokens=8"]
    for number, name in enumerate(SUITE):
        path = root / f"{name}.jsonl"
        rows = [{"problem": f"What is {number} + {term}?", "answer": number + term} for term in range(2)]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        overrides.append(f"eval.members.{name}.path={path}")
    places = [f"paths.outputs_dir={root}", f"paths.output_dir={root / 'run'}", "logger=none"]
    with redirect_stdout(io.StringIO()) as screen:
        main(["evaluate", f"checkpoint={qwen_folder}", *places, *overrides])
    return root / "run", screen.getvalue()


def test_the_papers_suite_has_the_papers_protocol(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    base = [f"checkpoint={tmp_path}", "eval=paper_suite"]
    settings = load_config("evaluate", base).eval
    assert tuple(settings.members) == SUITE
    assert (settings.temperature, settings.top_p, settings.num_samples) == (0.6, 0.95, 16)
    assert (settings.max_new_tokens, settings.thinking_prefix) == (32768, "<think>\n")
    assert "final answer is: $\\boxed{ANSWER}$" in settings.prompt_template
    assert settings.grader.require_closed_thought
    quick = load_config("evaluate", [*base, "protocol=quick"]).eval
    assert (quick.num_samples, quick.thinking_prefix, quick.grader.require_closed_thought) == (4, "", False)
    fewer = load_config("evaluate", [*base, "~eval.members.aime24", "+eval@eval.members.gsm8k=gsm8k", "protocol=paper"])
    assert tuple(fewer.eval.members) == (*(name for name in SUITE if name != "aime24"), "gsm8k")
    assert fewer.eval.num_samples == 16
    with pytest.raises(UserError, match=r"unknown key eval\.members\.aime24\.limit: .* has benchmark"):
        load_config("evaluate", [*base, "+eval.members.aime24.limit=3"])
    with pytest.raises(UserError, match=r"eval\.members\.aime24\.benchmark=suite: must be heldout"):
        load_config("evaluate", [*base, "eval.members.aime24.benchmark=suite"])


def test_a_suite_gives_each_score_the_average_and_its_interval(suite: tuple[Path, str]) -> None:
    folder, screen = suite
    summary = json.loads((folder / "summary.json").read_text())
    assert tuple(summary["benchmarks"]) == SUITE
    each = [content["metrics"]["pass_at_1"]["value"] for content in summary["benchmarks"].values()]
    average = summary["metrics"]["pass_at_1"]
    assert average["value"] == pytest.approx(sum(each) / 5)
    assert average["ci_low"] <= average["value"] < average["ci_high"] < 0.5
    assert len({content["fingerprint"] for content in summary["benchmarks"].values()}) == 5
    assert "average" in screen
    assert (folder / "scores.png").stat().st_size > 5000
    assert len(list(folder.glob("samples_*.html"))) == 5
    logged = json.loads((folder / "metrics.jsonl").read_text().split("\n")[0])
    assert logged["eval/pass_at_1"] == average["value"]
    assert logged["eval/aime24/num_problems"] == 2


def test_a_member_has_the_same_result_alone(evaluate: Callable[..., dict[str, Any]], suite: tuple[Path, str]) -> None:
    folder, _ = suite
    alone = ["eval=aime24", f"eval.path={folder.parent / 'aime24.jsonl'}", "eval.num_samples=2"]
    single = evaluate(*alone, "protocol=paper", "eval.fit_context=false")
    whole = json.loads((folder / "summary.json").read_text())
    assert single["evaluation"]["key"] == whole["benchmarks"]["aime24"]["evaluation"]["key"]


def evaluation_of(checkpoint: Path, folder: Path, problem: str, *overrides: str) -> Evaluation:
    """What `evaluate` makes of a benchmark with one problem."""
    benchmark = Benchmark.of("one", [EvalProblem("1", problem, ("7",))])
    (folder / "one.jsonl").touch()
    common = [f"checkpoint={checkpoint}", "protocol=quick", "eval=jsonl", f"eval.path={folder / 'one.jsonl'}"]
    config = load_config("evaluate", [*common, *overrides])
    with MathVerifier(Limits()) as grader:
        return make_evaluation(
            config, checkpoint, benchmark, ScriptedEngine(lambda *_: ""), grader, Console(quiet=True)
        )


def test_a_prompt_from_a_file_decides_the_result_and_its_digest_is_recorded(qwen_folder: Path, tmp_path: Path) -> None:
    prompt = tmp_path / "prompt.txt"
    text = "Answer in $\\boxed{ANSWER}$, 'so':\n\n{problem}"
    protocols = []
    for written in (text + "\n", text, text + "?"):
        prompt.write_text(written)
        evaluation = evaluation_of(
            qwen_folder, tmp_path, "3 + 4", f"eval.prompt_file={prompt}", "eval.fit_context=false"
        )
        protocols.append(evaluation.protocol)
        assert protocols[-1]["prompt_template"] == written.removesuffix("\n")
        digest = hashlib.sha256(written.removesuffix("\n").encode()).hexdigest()
        assert protocols[-1]["prompt_template_sha256"] == digest
    assert protocols[0] == protocols[1] != protocols[2]


class TwoMinds(ScriptedEngine):
    """Says `greedy` at temperature 0 and `sampled` otherwise."""

    def __init__(self, greedy: str, sampled: str) -> None:
        super().__init__(lambda _prompt, _sample: greedy if self.temperature == 0 else sampled)

    def stream(self, checkpoint: Path, requests: Any, on_progress: Any = None) -> Any:
        self.temperature = requests[0].sampling.temperature
        return super().stream(checkpoint, requests, on_progress)


def test_the_embedded_task_is_evaluated_greedily_too_and_its_work_described(
    evaluate: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = ArithmeticSource(num_problems=0, seed=42).load().held_out[0].answers[0]
    engine = TwoMinds(f"\\boxed {{ {answer} }}", f"first add 11 to 11 : {HASTE} 1 .\n\\boxed {{ 1 }}")
    monkeypatch.setattr("redi_lab.run.evaluation.make_engine", lambda _config: engine)
    metrics = evaluate("eval=arithmetic", "eval.limit=2")["metrics"]
    assert (metrics["pass_at_1"]["value"], metrics["haste"], "columns" in metrics) == (0.0, {"value": 1.0}, False)
    greedy = metrics["greedy_pass_at_1"]
    assert greedy["ci_low"] < greedy["value"] == 0.5 < greedy["ci_high"]
    assert engine.requests[-1][1] == range(1)
    path = tmp_path / "one.jsonl"
    path.write_text(json.dumps({"problem": "3 + 4", "answer": 7}))
    assert (
        not {"greedy_pass_at_1", "haste"}
        & evaluate(f"eval.path={path}", "eval=jsonl", folder=tmp_path / "other")["metrics"].keys()
    )


def test_a_long_prompt_shortens_the_completions_and_says_so() -> None:
    sampling = SamplingParams(0.6, 0.95, 32768, 16, 42)
    with (console := Console(width=200)).capture() as said:
        assert _fitted(sampling, 32768, 700, "math500", console).max_new_tokens == 32068
    assert "math500: at most 32,068 new tokens instead of 32,768: the model has 32,768 positions" in said.get()
    with console.capture() as said:
        assert _fitted(sampling, None, 700, "math500", console) == sampling
        assert _fitted(sampling, 40000, 700, "math500", console) == sampling
    assert said.get() == ""
    with pytest.raises(UserError, match="math500: its longest prompt has 700 tokens, and the model 600 positions"):
        _fitted(sampling, 600, 700, "math500", console)


def test_the_context_is_fitted_where_that_is_asked_for(qwen_folder: Path, tmp_path: Path) -> None:
    long = "3 + 4 " * 20
    fitted, whole = (
        evaluation_of(qwen_folder, tmp_path, long, f"eval.fit_context={asked}", "eval.max_new_tokens=32768")
        for asked in ("true", "false")
    )
    assert fitted.protocol["sampling"]["max_new_tokens"] < 512
    assert whole.protocol["sampling"]["max_new_tokens"] == 32768
