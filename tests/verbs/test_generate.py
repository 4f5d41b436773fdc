"""`generate`: graded traces of a model, with the log-probs of its tokens, that everything else reads as they are."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from omegaconf import DictConfig
from transformers import AutoModelForCausalLM

from redi_lab.backbone.hub import load_tokenizer
from redi_lab.cli import main
from redi_lab.config.compose import load_config
from redi_lab.data.arithmetic import ArithmeticSource
from redi_lab.data.reasoning_gym import ReasoningGymSource
from redi_lab.data.tokenization import TraceEncoder
from redi_lab.errors import UserError
from redi_lab.evaluation.benchmarks import Benchmark, EvalProblem
from redi_lab.evaluation.evaluate import Evaluation, GradedSample
from redi_lab.evaluation.results import checkpoint_hash
from redi_lab.generation.engines import Completion, Request, SamplingParams
from redi_lab.run.benchmarks import make_benchmarks
from redi_lab.run.build import make_source
from redi_lab.verbs.generate import TOKENS_FILE, TRACES_FILE, draw
from redi_lab.verifiers.base import Limits
from redi_lab.verifiers.math import MathVerifier
from tests.conftest import REPOSITORY, TINY_TASK
from tests.evaluation.scripted_engine import ScriptedEngine
from tests.verbs.train.conftest import undrawn

Run = Callable[..., Path]


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded student after a few steps."""
    folder = tmp_path_factory.mktemp("student")
    places = [f"paths.outputs_dir={folder}", f"paths.output_dir={folder / 'run'}", "logger=none"]
    with undrawn():
        main([*TINY_TASK, *places, "+experiment=demo_sft", "eval=none"])
    return Path(json.loads((folder / "run" / "summary.json").read_text())["checkpoint"])


@pytest.fixture
def generate(student: Path, tmp_path: Path) -> Run:
    """Generates traces of the student and returns the results folder."""

    def run(*overrides: str, folder: str = "traces") -> Path:
        places = [f"paths.outputs_dir={tmp_path}", f"paths.output_dir={tmp_path / folder}"]
        task = ["data.source.num_problems=48"] if "data=reasoning_gym" not in overrides else []
        small = ["data.source.num_heldout=6", "eval.max_new_tokens=24"]
        main(["generate", f"checkpoint={student}", *places, *task, *small, *overrides])
        return tmp_path / folder

    return run


def rows_of(file: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(file).to_pylist()
    return rows


@pytest.mark.parametrize("sampling", [["eval.temperature=0.6", "eval.top_p=0.9"], ["eval.temperature=0"]])
def test_log_probs_are_the_models_at_temperature_1_whatever_the_sampling(
    sampling: list[str], generate: Run, student: Path
) -> None:
    folder = generate("eval=fresh", "eval.limit=3", "eval.num_samples=2", *sampling)
    model = AutoModelForCausalLM.from_pretrained(student, dtype=torch.float32)
    encoder = TraceEncoder(load_tokenizer(str(student)), "{problem}", "")
    traces = {row["id"]: row for row in rows_of(folder / TRACES_FILE)}
    tokens = rows_of(folder / TOKENS_FILE)
    assert len(traces) == 3
    assert len(tokens) == 6
    for row in tokens:
        prompt, made = encoder.prompt_ids(traces[row["id"]]["problem"]), row["token_ids"]
        with torch.inference_mode():
            logits = model(torch.tensor([prompt + made])).logits[0, len(prompt) - 1 : -1].float()
        forward = logits.log_softmax(-1)[range(len(made)), made]
        torch.testing.assert_close(torch.tensor(row["token_logps"]), forward, atol=1e-4, rtol=0)
        trace = next(one for one in traces[row["id"]]["generations"] if one["sample"] == row["sample"])
        assert trace["num_tokens"] == len(made)
        assert trace["sampler_logps"] == pytest.approx(forward.sum().item(), abs=1e-3)


def test_a_file_says_where_its_traces_come_from(generate: Run, student: Path) -> None:
    folder = generate("eval=fresh", "eval.limit=2", "eval.num_samples=1", "seed=5", "stop.right=2")
    summary = json.loads((folder / "summary.json").read_text())
    for file in (TRACES_FILE, TOKENS_FILE):
        said = json.loads(pq.read_schema(folder / file).metadata[b"redi_lab"])
        assert said["checkpoint_hash"] == checkpoint_hash(student)
        assert said["protocol"]["sampling"]["seed"] == 5
        assert said["protocol"] == summary["protocol"]
        assert said["stop"] == {"right": 2, "wrong": None}
    assert summary["metrics"]["problems"] == summary["metrics"]["traces"] == 2


def answer_of(problem: str) -> int:
    return sum(map(int, re.findall(r"\d+", problem)))


@pytest.fixture
def scripted(student: Path, monkeypatch: pytest.MonkeyPatch) -> ScriptedEngine:
    """Of each problem a right trace, a wrong one, a blank one and one that was cut off."""
    tokenizer = load_tokenizer(str(student))

    def says(prompt: tuple[int, ...], sample: int) -> str:
        result = answer_of(tokenizer.decode(prompt))
        return [
            f"so {result} .\n\\boxed {{ {result} }}",
            f"so it is {result + 1} .\n\\boxed {{ {result + 1} }}",
            " ",
            "",
        ][sample]

    engine = ScriptedEngine(says)
    monkeypatch.setattr("redi_lab.verbs.generate.make_engine", lambda config: engine)
    return engine


def test_from_traces_to_a_training_step(
    scripted: ScriptedEngine, generate: Run, student: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    traces = generate("eval=fresh", "eval.limit=8", "eval.num_samples=4")
    metrics = json.loads((traces / "summary.json").read_text())["metrics"]
    assert (metrics["right"], metrics["wrong"], metrics["unknown"], metrics["cut_off"]) == (8, 8, 16, 8)
    assert metrics["blank_and_left_out"] == 16
    assert metrics["problems_with_right_and_wrong"] == 8
    assert [len(row["generations"]) for row in rows_of(traces / TRACES_FILE)] == [2] * 8
    assert f"data.path={traces / TRACES_FILE} 'data.prompt_template=\"{{problem}}\"'" in capsys.readouterr().out

    places = [f"paths.outputs_dir={tmp_path}", f"paths.output_dir={tmp_path / 'curated'}"]
    prompt = 'data.prompt_template="{problem}"'
    main(["curate", "data=jsonl", f"data.path={traces}", prompt, "curation=strict", *places])
    report = json.loads((tmp_path / "curated" / "report.json").read_text())
    assert report["written"] == {"demonstrations": 8, "negatives": 8, "pairs": 8}

    training = [
        *("name=own", f"init_from={student}", prompt, "data.source.num_heldout=0", "data.batch_size=4"),
        *("trainer.max_steps=1", "eval=none", "logger=none", f"paths.outputs_dir={tmp_path}"),
    ]
    for name, data in (
        ("curated", ["data=curated", f"data.path={tmp_path / 'curated'}", "loss=redi"]),
        ("direct", ["data=jsonl", f"data.path={traces / TRACES_FILE}", "loss=unpaired_redi"]),
        ("sampler", ["data=jsonl", f"data.path={traces}", "loss=topr", f"loss.reference={student}"]),
    ):
        with undrawn():
            main([*training, *data, f"paths.output_dir={tmp_path / name / 'run'}"])
        steps = [json.loads(line) for line in (tmp_path / name / "run" / "metrics.jsonl").read_text().splitlines()]
        assert any("train/loss" in step for step in steps), name


ANSWERS = {  # by problem and sample, r(ight), w(rong), c(ut off, and right), u(nknown)
    0: "rwrwrw",
    1: "wwwrrr",
    2: "wwwwww",
    3: "cwurww",
    4: "rrrrrw",
}


def evaluation_of(engine: ScriptedEngine, checkpoint: Path, folder: Path) -> Evaluation:
    problems = [EvalProblem(str(number), str(number), ("7",)) for number in ANSWERS]
    return Evaluation(
        engine,
        checkpoint,
        Benchmark.of("five", problems),
        lambda problem: [int(problem)],
        SamplingParams(1.0, 1.0, 8, num_samples=6, seed=0, wants_token_logps=True),
        MathVerifier(Limits()),
        {},
        folder,
        chunk_completions=2,
    )


class Cut(ScriptedEngine):
    """Writes `ANSWERS`, and is killed in the n-th chunk."""

    def __init__(self, killed_at: int | None = None) -> None:
        texts = {
            "r": "\\boxed{7}",
            "w": "\\boxed{8}",
            "u": "?? and so on, as we said before this",
            "c": "\\boxed{7} and",
        }
        super().__init__(lambda prompt, sample: texts[ANSWERS[prompt[0]][sample]])
        self.killed_at = killed_at

    def stream(
        self, checkpoint: Path, requests: Sequence[Request], on_progress: Callable[[int, int], None] | None = None
    ) -> Iterator[tuple[int, list[Completion]]]:
        for number, completions in super().stream(checkpoint, requests, on_progress):
            if len(self.requests) - 1 == self.killed_at:
                raise KilledError
            yield (
                number,
                [replace(one, finish_reason="length") if one.text.endswith("and") else one for one in completions],
            )

    @property
    def drawn(self) -> list[tuple[int, int]]:
        return [(prompt[0], index) for prompts, indices in self.requests for prompt in prompts for index in indices]


class KilledError(BaseException):
    pass


def stop(right: int | None, wrong: int | None) -> DictConfig:
    return DictConfig({"right": right, "wrong": wrong})


def words(found: Sequence[Sequence[GradedSample]]) -> dict[int, str]:
    letters = {"right": "r", "wrong": "w", "unknown": "u"}

    def letter(one: GradedSample) -> str:
        return "c" if one.sample.finish_reason == "length" else letters[one.grade.verdict]

    return {problem: "".join(map(letter, of_problem)) for problem, of_problem in enumerate(found)}


def test_a_problem_that_has_enough_is_left_alone(qwen_folder: Path, tmp_path: Path) -> None:
    """Looks are after 1, 2, 3, 4 and 6 samples; a trace that was cut off counts for neither side."""
    evaluation = evaluation_of(Cut(), qwen_folder, tmp_path)
    seen: list[tuple[int, int]] = []
    found = draw(evaluation, stop(1, 1), lambda done, total: seen.append((done, total)))
    assert words(found) == {0: "rw", 1: "wwwr", 2: "wwwwww", 3: "cwur", 4: "rrrrrw"}
    assert seen[0] == (0, 30)
    assert seen[-1] == (22, 22)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    right = draw(evaluation, stop(2, None), lambda done, total: None)
    assert words(right) == {0: "rwr", 1: "wwwrrr", 2: "wwwwww", 3: "cwurww", 4: "rr"}
    everything = draw(evaluation, stop(None, None), lambda done, total: None)
    assert words(everything) == ANSWERS


def test_killed_at_any_chunk_it_goes_on_and_draws_nothing_twice(qwen_folder: Path, tmp_path: Path) -> None:
    whole_engine = Cut()
    whole = draw(evaluation_of(whole_engine, qwen_folder, tmp_path / "whole"), stop(1, 1), lambda done, total: None)
    num_chunks = len(whole_engine.requests)
    assert num_chunks > 8
    for chunk in range(num_chunks):
        killed, rest = Cut(killed_at=chunk), Cut()
        with pytest.raises(KilledError):
            draw(evaluation_of(killed, qwen_folder, tmp_path / str(chunk)), stop(1, 1), lambda done, total: None)
        found = draw(evaluation_of(rest, qwen_folder, tmp_path / str(chunk)), stop(1, 1), lambda done, total: None)
        assert found == whole
        lost = killed.requests.pop()  # what was being drawn when it was killed
        assert sorted(killed.drawn + rest.drawn) == sorted(whole_engine.drawn)
        assert len(killed.requests) == chunk
        assert lost in rest.requests


def test_reasoning_gym_is_built_from_its_settings() -> None:
    words = ["data=reasoning_gym", "data.source.tasks=[gcd]", "+data.source.options.gcd.max_value=9"]
    config = load_config("generate", ["checkpoint=.", "eval=fresh", "seed=7", *words], check_paths=False)
    source = make_source(config)
    assert isinstance(source, ReasoningGymSource)
    assert (source.tasks, source.options, source.seed) == (("gcd",), {"gcd": {"max_value": 9}}, 7)
    assert (source.difficulty, source.num_heldout, source.heldout_seed) == (None, 300, 0)


def test_fresh_problems_are_in_no_corpus_and_no_development_set() -> None:
    config = load_config("generate", ["checkpoint=.", "eval=fresh", "eval.limit=40"], check_paths=False)
    config.data.source.num_problems, config.data.source.num_heldout, config.data.num_development = 500, 50, 20
    source = make_source(config)
    assert isinstance(source, ArithmeticSource)
    corpus = source.load()
    [benchmark] = make_benchmarks(config, lambda: corpus)
    fresh = {problem.problem for problem in benchmark.problems}
    assert len(fresh) == 40
    known = {row.problem for rows in (corpus.demonstrations, corpus.held_out) for row in rows}
    development, _ = source.further(20, 0, known)
    assert not fresh & (known | {row.problem for row in development})
    assert all(problem.answers == (str(answer_of(problem.problem)),) for problem in benchmark.problems)


def test_reasoning_gyms_scorers_give_the_verdicts_on_its_problems(
    generate: Run, student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(
        "reasoning_gym", reason="reasoning-gym is not installed (pip install 'redi-lab[reasoning-gym]')"
    )
    source, tokenizer = ReasoningGymSource(["chain_sum"], seed=42), load_tokenizer(str(student))
    problems = (*source.further(4, 0, ())[0], *source.load().held_out)

    def says(prompt: tuple[int, ...], sample: int) -> str:
        asked = tokenizer.decode(prompt)
        [answer] = next(problem.answers for problem in problems if problem.problem in asked)
        return f"\\boxed{{{answer}}}" if sample == 0 else f"\\boxed{{{answer} or so}}"  # which math-verify may take

    for place in ("redi_lab.verbs.generate.make_engine", "redi_lab.run.evaluation.make_engine"):
        monkeypatch.setattr(place, lambda config: ScriptedEngine(says))
    gym = ["data=reasoning_gym", "data.source.tasks=[chain_sum]", "eval.num_samples=2"]
    folder = generate(*gym, "eval=fresh", "eval.limit=4")
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["metrics"]["right"], summary["metrics"]["wrong"]) == (4, 4)
    assert summary["protocol"]["grader"]["name"] == "reasoning-gym"
    reasons = [one["reason"] for row in rows_of(folder / TRACES_FILE) for one in row["generations"]]
    assert reasons[0] == "score 1"
    assert reasons[1].startswith("score 0.")
    places = [f"paths.outputs_dir={tmp_path}", f"paths.output_dir={tmp_path / 'score'}", "logger=none"]
    main(["evaluate", f"checkpoint={student}", *gym, "eval=heldout", "data.source.num_heldout=5", *places])
    score = json.loads((tmp_path / "score" / "summary.json").read_text())
    assert score["metrics"]["pass_at_1"]["value"] == 0.5
    assert score["metrics"]["num_problems"]["value"] == 5
    assert score["evaluation"]["protocol"]["grader"]["name"] == "reasoning-gym"


def test_proofs_are_compiled_and_what_coq_says_is_the_reason(
    generate: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A stand-in for coqc rejects the second proof of each lemma, which curation then takes for wrong."""
    coqc = tmp_path / "coqc"
    coqc.write_text(
        '#!/bin/sh\n[ "$1" = --version ] && echo "The Coq Proof Assistant, version 8.16.1" && exit\n'
        "for file; do :; done\nline=$(grep -n oops $file | cut -d: -f1)\n"
        """[ -n "$line" ] && printf 'File "x", line %s, characters 0-1:\\nError: No oops.\\n' "$line" >&2 && exit 1\n"""
        """sed -n 's/.*idtac "\\(.*\\)".*/\\1/p' "$file"; echo Closed under the global context\n"""
    )
    coqc.chmod(0o755)
    texts = ["```coq\nProof. auto. Qed.\n```", "```coq\nProof. oops. Qed.\n```"]
    for place in ("redi_lab.verbs.generate.make_engine", "redi_lab.run.evaluation.make_engine"):
        monkeypatch.setattr(place, lambda config: ScriptedEngine(lambda prompt, sample: texts[sample]))
    folder = generate(
        *("eval=coq_lemmas", "eval.limit=3", "eval.num_samples=2", "eval.fit_context=false"),
        *('eval.prompt_template="{problem}"', f"verifier.coqc={coqc}", "verifier.tactics=[]"),
    )
    made = [[(one["correct"], one["reason"]) for one in row["generations"]] for row in rows_of(folder / TRACES_FILE)]
    assert made == [[(True, "proved"), (False, "No oops. [at: oops.]")]] * 3
    assert json.loads((folder / "summary.json").read_text())["protocol"]["grader"]["version"] == "8.16.1"
    assert "curation.require_answer=false" in capsys.readouterr().out
    places = [f"paths.outputs_dir={tmp_path}", f"paths.output_dir={tmp_path / 'curated'}", "curation.num_workers=0"]
    rows = ["data=jsonl", f"data.path={folder / TRACES_FILE}"]
    main(["curate", *rows, "curation=strict", "curation.require_answer=false", *places])
    report = json.loads((tmp_path / "curated" / "report.json").read_text())
    assert report["written"] == {"demonstrations": 3, "negatives": 3, "pairs": 3}


def test_rows_of_a_file_make_no_fresh_problems(own_rows: Path) -> None:
    overrides = ["checkpoint=.", "eval=fresh", "data=jsonl", f"data.path={own_rows}", "data.source.num_heldout=0"]
    config = load_config("generate", overrides, check_paths=False)
    with pytest.raises(UserError, match=r"^eval=fresh: .*own\.jsonl holds its rows .* eval=jsonl eval\.path=FILE"):
        make_benchmarks(config, make_source(config).load)
    config = load_config("generate", ["checkpoint=.", "eval=fresh", "eval.limit=null"], check_paths=False)
    with pytest.raises(UserError, match=r"^eval\.limit=null: .* give a number"):
        make_benchmarks(config, make_source(config).load)


@pytest.mark.slow
def test_a_command_that_is_killed_goes_on_to_the_same_files(student: Path, tmp_path: Path) -> None:
    def command(place: str) -> list[str]:
        settings = ["eval=fresh", "eval.limit=12", "eval.num_samples=4", "eval.max_new_tokens=24", "stop.right=1"]
        task = ["data.source.num_problems=48", "data.source.num_heldout=6", "eval.chunk_completions=4"]
        places = [f"paths.outputs_dir={tmp_path / place}", f"paths.output_dir={tmp_path / place / 'run'}"]
        return [sys.executable, "-m", "redi_lab", "generate", f"checkpoint={student}", *settings, *task, *places]

    def num_chunks() -> int:
        stores = (tmp_path / "killed" / "cache").rglob("*.jsonl")
        return sum(store.read_bytes().count(b"\n") - 1 for store in stores)

    with subprocess.Popen(command("killed"), cwd=REPOSITORY) as process:
        while process.poll() is None and num_chunks() < 3:
            time.sleep(0.001)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    before = num_chunks()
    for place in ("killed", "whole"):
        subprocess.run(command(place), cwd=REPOSITORY, check=True)
    assert 3 <= before < num_chunks()
    killed, whole = (tmp_path / place / "run" / TRACES_FILE for place in ("killed", "whole"))
    assert rows_of(killed) == rows_of(whole)
    [store] = (tmp_path / "killed" / "cache").rglob("*.jsonl")
    lines = [json.loads(line) for line in store.read_text().splitlines()[1:]]
    drawn = [(problem, line["first_sample"]) for line in lines for problem in line["problems"]]
    assert len(set(drawn)) == len(drawn)
