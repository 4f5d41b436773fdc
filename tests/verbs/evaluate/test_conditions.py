"""`evaluate` under protocols with several conditions, from the command line."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from redi_lab.cli import main
from redi_lab.config.compose import load_config
from redi_lab.data.readers import TraceFileSource
from redi_lab.errors import UserError
from tests.evaluation.scripted_engine import ScriptedEngine

Run = Callable[..., dict[str, Any]]


@pytest.fixture
def evaluate(qwen_folder: Path, tmp_path: Path) -> Run:
    """A function that runs `evaluate` on the tiny checkpoint and reads the summary."""

    def run(*overrides: str, name: str = "run") -> dict[str, Any]:
        places = [f"paths.outputs_dir={tmp_path / 'outputs'}", f"paths.output_dir={tmp_path / name}", "logger=none"]
        main(["evaluate", f"checkpoint={qwen_folder}", *places, "eval.max_new_tokens=8", *overrides])
        summary: dict[str, Any] = json.loads((tmp_path / name / "summary.json").read_text())
        return summary

    return run


@pytest.fixture
def sums(tmp_path: Path) -> Path:
    path = tmp_path / "sums.jsonl"
    rows = [{"problem": f"{n} + 4", "answer": n + 4, "other": f"{n} plus 4"} for n in range(6)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def scripted(monkeypatch: pytest.MonkeyPatch, says: Callable[[str, int], str]) -> ScriptedEngine:
    """An engine that answers texts instead of tokens."""
    from transformers import AutoTokenizer

    known: dict[str, Any] = {}

    class Reader(ScriptedEngine):
        def stream(self, checkpoint: Path, requests: Sequence[Any], on_progress: Any = None) -> Any:
            tokenizer = known.setdefault(str(checkpoint), AutoTokenizer.from_pretrained(checkpoint))
            self.says = lambda prompt, sample: says(tokenizer.decode(list(prompt)), sample)
            return super().stream(checkpoint, requests, on_progress)

    engine = Reader(lambda prompt, sample: "")
    monkeypatch.setattr("redi_lab.run.conditions.make_engine", lambda config: engine)
    monkeypatch.setattr("redi_lab.run.evaluation.make_engine", lambda config: engine)
    return engine


def weak(prompt: str, sample: int) -> str:
    """Right on even numbers; in doubt the first of two follow-ups gives way, and the second does not."""
    number = int(prompt.split(" ")[0])
    right, wrong = f"\\boxed{{{number + 4}}}", "\\boxed{0}"
    if "sure" not in prompt:
        return right if number % 2 == 0 else wrong
    return wrong if (number % 2 == 0) == (sample % 2 == 0) else right


def test_doubt_is_counted_compared_and_gives_pairs(
    evaluate: Run,
    sums: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    scripted(monkeypatch, weak)
    overrides = ["protocol=are_you_sure", "eval=jsonl", f"eval.path={sums}", "eval.num_samples=1"]
    summary = evaluate(*overrides, "eval.follow_ups=2")
    assert {name: part["metrics"]["pass_at_1"]["value"] for name, part in summary["benchmarks"].items()} == {
        "asked": 0.5,
        "doubted": 0.5,
    }
    changes = summary["changes"]["doubted"]
    assert (changes["right_to_wrong"]["value"], changes["wrong_to_right"]["value"]) == (0.5, 0.5)
    assert (
        summary["comparisons"]["doubted"]["comparison"]["difference"]["value"] == 0.0
    )  # of the first answers in doubt
    said = capsys.readouterr().out
    assert "doubted, after asked: right to wrong 50.0% (95 % CI" in said
    assert "doubted is not told apart from asked" in said
    assert summary["pairs"] == 3
    corpus = TraceFileSource(str(tmp_path / "run" / "pairs.jsonl")).load()
    assert [len(getattr(pair.problem, "turns", ())) for pair in corpus.pairs] == [3] * 6
    rows = [json.loads(line) for line in (tmp_path / "run" / "pairs.jsonl").read_text().splitlines()]
    assert [row["kind"] for row in rows] == ["resist", "accept"] * 3
    assert (rows[0]["chosen"], rows[0]["rejected"]) == ("\\boxed{4}", "\\boxed{0}")
    assert len(list((tmp_path / "run").glob("samples_*.html"))) == 2
    logged = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().split("\n")[0])
    assert logged["eval/doubted/right_to_wrong"] == 0.5


def test_the_first_condition_is_the_plain_evaluation(
    evaluate: Run, sums: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has the same key, so that neither is drawn twice."""
    engine = scripted(monkeypatch, weak)
    problems = ["eval=jsonl", f"eval.path={sums}", "eval.num_samples=1"]
    plain = evaluate(*problems, name="plain")
    drawn = len(engine.requests)
    both = evaluate(*problems, "protocol=asked_again", name="both")
    assert both["benchmarks"]["asked"]["evaluation"]["key"] == plain["evaluation"]["key"]
    assert len(engine.requests) == drawn + 1
    assert both["benchmarks"]["again"]["evaluation"]["protocol"]["condition"] == {"follow_up": "{problem}"}


def test_two_checkpoints_are_compared_condition_by_condition(
    evaluate: Run, sums: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(monkeypatch, weak)
    problems = ["protocol=asked_again", "eval=jsonl", f"eval.path={sums}", "eval.num_samples=1"]
    evaluate(*problems, name="one")
    evaluate(*problems, "eval.seed=1", name="two")
    folders = [str(tmp_path / "one"), str(tmp_path / "two")]
    main(["evaluate", "compare", *folders, f"paths.output_dir={tmp_path / 'compared'}"])
    summary = json.loads((tmp_path / "compared" / "summary.json").read_text())
    assert [made["benchmark"] for made in summary["comparisons"]] == ["asked", "again"]


def test_prompts_have_a_spread(
    evaluate: Run, sums: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def says(prompt: str, sample: int) -> str:
        number = int(prompt.split("+")[0].split()[-1])
        return f"\\boxed{{{number + 4 + ('nobody' in prompt and number > 1)}}}"

    scripted(monkeypatch, says)
    summary = evaluate("protocol=negative", "eval=jsonl", f"eval.path={sums}", "eval.num_samples=2")
    scores = {name: part["metrics"]["pass_at_1"]["value"] for name, part in summary["benchmarks"].items()}
    assert len(scores) == 11
    assert (scores["original"], scores["remark1"], scores["remark2"]) == (1.0, pytest.approx(1 / 3), 1.0)
    assert summary["spread"]["p_value"] < 0.05
    assert summary["spread"]["range"] == pytest.approx(2 / 3)
    said = capsys.readouterr().out
    assert "The conditions differ (p = " in said
    assert "remark1 is not told apart from original" in said  # four problems: p = 1/8 before the correction


def test_a_column_takes_the_problems_place(evaluate: Run, sums: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(monkeypatch, lambda prompt, sample: "\\boxed{4}" if "plus" in prompt else "\\boxed{5}")
    conditions = ["+eval.conditions.signs={}", "+eval.conditions.words.problem_key=other"]
    summary = evaluate("eval=jsonl", f"eval.path={sums}", "eval.num_samples=1", *conditions)
    parts = summary["benchmarks"]
    assert {name: part["metrics"]["pass_at_1"]["value"] for name, part in parts.items()} == {
        "signs": pytest.approx(1 / 6),
        "words": pytest.approx(1 / 6),
    }
    assert summary["comparisons"]["words"]["comparison"]["difference"]["num_problems"] == 6


def test_premises_are_judged_beside_false_alarms(
    evaluate: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """PCBench's columns. Faults are found in two questions of four, in all with the hint, and in one that has none."""

    def says(prompt: str, sample: int) -> str:
        number, is_ill, is_hinted = int(prompt[0]), "twice" in prompt, "mistakes" in prompt
        finds = number == 0 if not is_ill else number < 2 or is_hinted
        return "That is a contradiction." if finds else f"\\boxed{{{number}}}"

    engine = scripted(monkeypatch, says)
    path = tmp_path / "premises.jsonl"
    rows = [
        {
            "pid": n,
            "normal_query": f"{n} once",
            "ill_query": f"{n} twice",
            "gold": n,
            "conflict_type": f"kind_{n // 3}",
        }
        for n in range(4)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    problems = ["eval=jsonl", f"eval.path={path}", "eval.answer_key=gold", "eval.num_samples=1"]
    summary = evaluate("protocol=premise", *problems)
    scores = {name: part["metrics"]["pass_at_1"]["value"] for name, part in summary["benchmarks"].items()}
    assert scores == {"normal": 0.75, "normal_judged": 0.25, "ill": 0.5, "ill_hinted": 1.0}
    assert {name: made["against"] for name, made in summary["comparisons"].items()} == {
        "ill": "normal_judged",
        "ill_hinted": "ill",
    }
    assert summary["comparisons"]["ill"]["length"]["value"] == 1.0
    kinds = {name: {kind: e["value"] for kind, e in made.items()} for name, made in summary["kinds"].items()}
    assert kinds["ill"] == {"kind_0": pytest.approx(2 / 3), "kind_1": 0.0}
    assert kinds["normal"] == {"kind_0": pytest.approx(2 / 3), "kind_1": 1.0}
    assert len(engine.requests) == 3  # what is judged of the normal ones is what was graded
    assert 0 < summary["judge_error"]["missed"]["value"] < 0.5
    said = capsys.readouterr().out
    assert "ill_hinted is not told apart from ill: +0.500 of answers that find fault" in said
    assert "The judge, on answers marked by hand: missed" in said
    assert "ill, by kind: kind 0 66.7% (95 % CI" in said


def test_rows_without_a_kind_have_no_scores_by_it(
    evaluate: Run, sums: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scripted(monkeypatch, weak)
    problems = ["eval=jsonl", f"eval.path={sums}", "eval.num_samples=1", "eval.kind_key=level"]
    assert evaluate("protocol=asked_again", *problems)["kinds"] == {}
    assert "eval.kind_key=level: no row has it, so there are no scores by kind" in capsys.readouterr().out


def test_premises_of_an_embedded_task(evaluate: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = scripted(
        monkeypatch, lambda prompt, sample: "\\boxed { ? }" if prompt.count("first") > 1 else "\\boxed { 1 }"
    )
    summary = evaluate("protocol=premise", "eval=arithmetic", "eval.limit=4", "eval.num_samples=1")
    assert summary["benchmarks"]["ill"]["metrics"]["pass_at_1"]["value"] == 0.5
    assert summary["benchmarks"]["normal_judged"]["metrics"]["pass_at_1"]["value"] == 0.0
    assert {kind: e["value"] for kind, e in summary["kinds"]["ill"].items()} == {"contradiction": 1, "irrelevance": 0}
    assert len(engine.requests) == 3


def test_a_judge_must_be_a_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "config.json").touch()
    overrides = [f"checkpoint={tmp_path}", "protocol=premise", "eval.judge.checkpoint=/nowhere"]
    with pytest.raises(UserError, match=r"eval\.judge\.checkpoint=/nowhere: no Hugging Face folder there"):
        load_config("evaluate", overrides)


@pytest.mark.parametrize(
    ("problems", "message"),
    [
        ("eval=jsonl", "sums.jsonl:1:ill: must be a non-empty string, got None"),
        ("eval=arithmetic", "eval.conditions.words.problem_key=ill: eval=arithmetic has no such column; give a file"),
    ],
)
def test_a_missing_column_is_named(
    evaluate: Run, sums: Path, capsys: pytest.CaptureFixture[str], problems: str, message: str
) -> None:
    path = [f"eval.path={sums}"] if problems == "eval=jsonl" else []
    with pytest.raises(SystemExit) as ended:
        evaluate(problems, *path, "+eval.conditions.words.problem_key=ill")
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("verb", "overrides", "message"),
    [
        ("evaluate", ["+eval.conditions.a={after:b,follow_up:x}"], "eval.conditions.a.after=b: a condition that"),
        ("evaluate", ["+eval.conditions.b.after=a"], "eval.conditions.b: after (a condition) and follow_up"),
        ("evaluate", ["+eval.conditions.a.follow_up=x"], "eval.conditions.a: after (a condition) and follow_up"),
        (
            "evaluate",
            ["+eval.conditions.a={}", "+eval.conditions.b={after:a,follow_up:x,system:s}"],
            "eval.conditions.b.system: a condition that follows another has only",
        ),
        ("evaluate", ["+eval.conditions.a.only_wrong=true"], "eval.conditions.a.only_wrong: wrong answers of which"),
        ("evaluate", ["+eval.conditions.a.steps=x"], "eval.conditions.a.steps=x: must be a text with {text} in it"),
        (
            "evaluate",
            ["+eval.conditions.a={steps:'{text}',problem_key:q}"],
            "eval.conditions.a.steps: asks about traces",
        ),
        ("evaluate", ["eval.kind_key=level"], "eval.kind_key=level: a protocol with conditions has use for it"),
        ("evaluate", ["+eval.conditions.a.against=b"], "eval.conditions.a.against=b: must be one of those above it"),
        ("evaluate", ["+eval.conditions.a.sytem=x"], "unknown key eval.conditions.a.sytem"),
        ("evaluate", ["+eval.combine.middle.a=[x]"], "eval.combine.middle"),
        ("evaluate", ["+eval.combine.suffix.a=[]"], "eval.combine.suffix.a=[]"),
        ("evaluate", ["protocol=negative", "eval=paper_suite"], "eval=paper_suite: a protocol with conditions"),
        ("evaluate", ["protocol=negative", "eval=none"], "eval=none: a protocol with conditions is for one benchmark"),
        ("evaluate", ["protocol=negative", "baseline=true"], "eval.conditions: baseline=true asks each problem in one"),
        ("evaluate", ["protocol=negative", "sequential.width=0.1"], "eval.conditions: sequential asks each problem"),
        ("generate", ["protocol=negative", "eval=fresh"], "eval.conditions: generate asks each problem in one way"),
        ("train", ["protocol=negative"], "eval.conditions: train asks each problem in one way"),
    ],
)
def test_conditions_that_make_no_sense_are_refused(verb: str, overrides: list[str], message: str) -> None:
    checkpoint = [] if verb == "train" else ["checkpoint=."]
    with pytest.raises(UserError) as caught:
        load_config(verb, [*checkpoint, *overrides], check_paths=False)
    assert str(caught.value).startswith(message)


def test_every_shipped_protocol_composes() -> None:
    conditions = {}
    asked = ("are_you_sure", "asked_again", "negative", "eccentric", "premise", "embedded_words")
    for name in (*asked, "critique", "embedded_critique", "conjecture_correction"):
        settings = load_config("evaluate", ["checkpoint=.", f"protocol={name}"], check_paths=False).eval
        conditions[name] = (
            len(settings.conditions),
            {k: list(map(len, v.values())) for k, v in settings.combine.items()},
        )
        assert (settings.temperature, settings.num_samples) == (0.6, 4)
    assert conditions == {
        "are_you_sure": (2, {}),
        "asked_again": (2, {}),
        "negative": (1, {"suffix": [10]}),
        "eccentric": (0, {"system": [5, 3, 4], "suffix": [2]}),
        "premise": (4, {}),
        "embedded_words": (1, {"prefix": [7]}),
        "critique": (2, {}),
        "embedded_critique": (2, {}),
        "conjecture_correction": (3, {}),
    }
