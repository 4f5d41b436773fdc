"""Tasks of the lm-evaluation-harness: verdicts against the model's own log-probs, storage, and what is refused."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from redi_lab.config.compose import load_config
from redi_lab.errors import UserError
from redi_lab.evaluation.harness import HarnessTasks, run_tasks
from redi_lab.evaluation.results import EvaluationResult, load_result
from redi_lab.generation.transformers_engine import TransformersEngine
from tests.generation.conftest import build_checkpoint

needs_harness = pytest.mark.skipif(
    find_spec("lm_eval") is None, reason="the harness is not installed (pip install 'redi-lab[lm-eval]')"
)
ROWS = [
    {"question": f"{a} {b}", "choices": [f"{(a + b) % 20}", f"{(a * b) % 20} {b}", "7"], "label": (a + b) % 3}
    for a in range(4)
    for b in range(3)
]
TASK = """\
task: {name}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {file}
test_split: test
output_type: {kind}
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{label}}}}"
{more}
metric_list:
  - metric: {metric}
    aggregation: {aggregation}
    higher_is_better: true
"""
CHOICES = 'doc_to_choice: "{{choices}}"'


HARNESS = "{tasks:[which],folder:null,metric:null,num_fewshot:null,use_chat_template:false,batch_size:8}"


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (["eval=lm_eval", "eval.harness.tasks=[which]"], r"is not installed .* pip install 'redi-lab\[lm-eval\]'"),
        (["eval=arithmetic", f"eval.harness={HARNESS}"], "eval.harness: goes with eval=lm_eval"),
        (["eval=lm_eval", "eval.harness=null"], "eval.harness: goes with eval=lm_eval"),
        (
            ["eval=lm_eval", "eval.harness.tasks=[which]", "eval.offset=5"],
            "eval.offset=5: eval=lm_eval takes the first",
        ),
    ],
)
def test_what_is_said_before_anything_loads(
    asked: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("redi_lab.config.schema.evaluation.find_spec", lambda name: None)
    with pytest.raises(UserError, match=said):
        load_config("evaluate", [f"checkpoint={tmp_path}", *asked])


def test_training_is_not_evaluated_on_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("redi_lab.config.schema.evaluation.find_spec", lambda name: object())
    with pytest.raises(UserError, match="eval=lm_eval: training is evaluated on one benchmark"):
        load_config("train", ["eval=lm_eval", "eval.harness.tasks=[which]"])


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture
def tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of tasks: one of choices, one that is written, and one that says no right or wrong."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    folder = tmp_path / "tasks"
    folder.mkdir()
    for name, kind, metric, more in (
        ("which", "multiple_choice", "acc", CHOICES),
        ("written", "generate_until", "exact_match", "generation_kwargs: {until: ['<eos>'], max_gen_toks: 4}"),
        ("fluent", "loglikelihood_rolling", "word_perplexity", ""),
    ):
        values = {"name": name, "kind": kind, "metric": metric, "more": more, "file": file}
        aggregation = "weighted_perplexity" if name == "fluent" else "mean"
        (folder / f"{name}.yaml").write_text(TASK.format(**values, aggregation=aggregation))
    return folder


def run(checkpoint: Path, folder: Path, cache: Path, *names: str, metric: str | None = None) -> list[EvaluationResult]:
    engine = TransformersEngine(dtype="float32", device="cpu")
    return [result for _, result in run_tasks(engine, checkpoint, HarnessTasks(names, folder, metric), cache)]


@needs_harness
def test_choices_are_those_of_the_models_log_probs(checkpoint: Path, tasks: Path, tmp_path: Path) -> None:
    result, written = run(checkpoint, tasks, tmp_path / "cache", "which", "written")
    model = AutoModelForCausalLM.from_pretrained(checkpoint)

    def logp(prompt: list[int], more: list[int]) -> float:
        with torch.inference_mode():
            scores = model(torch.tensor([prompt + more])).logits[0].log_softmax(-1)
        return sum(float(scores[len(prompt) - 1 + i, token]) for i, token in enumerate(more))

    for row, doc in zip(result.rows, ROWS, strict=True):
        prompt = [int(word) for word in str(doc["question"]).split()]
        choices = [str(choice) for choice in doc["choices"]]  # type: ignore[attr-defined]
        likeliest = max(choices, key=lambda choice: logp(prompt, [int(word) for word in choice.split()]))
        assert row.text.strip() == likeliest
        assert row.verdict == ("right" if likeliest == choices[int(str(doc["label"]))] else "wrong")
    rights = [row.verdict == "right" for row in result.rows]
    assert 0 < sum(rights) < len(ROWS)  # else it would show nothing
    assert result.metrics["pass_at_1"] == sum(rights) / len(ROWS)
    assert load_result(tmp_path / "cache", result.key) == result
    assert written.benchmark == "written"
    assert {row.reason for row in written.rows} == {"exact_match"}


@needs_harness
def test_nothing_is_computed_twice(
    checkpoint: Path, tasks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lm_eval.models.huggingface import HFLM

    (first,) = run(checkpoint, tasks, tmp_path / "cache", "which")
    monkeypatch.setattr(HFLM, "loglikelihood", lambda *_, **__: pytest.fail("computed again"))
    (again,) = run(checkpoint, tasks, tmp_path / "cache", "which")
    assert again == first


@needs_harness
@pytest.mark.parametrize(
    ("name", "metric", "said"),
    [
        ("whihc", None, r"has no task 'whihc' \(did you mean which\?\)"),
        ("fluent", None, "fluent does not say right or wrong by acc or exact_match, it has word_perplexity"),
        ("which", "acc_norm", "which does not say right or wrong by acc_norm, it has acc"),
    ],
)
def test_what_cannot_be_scored_is_refused(
    name: str,
    metric: str | None,
    said: str,
    checkpoint: Path,
    tasks: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from lm_eval.tasks import TaskManager

    of_folder = TaskManager(include_path=str(tasks), include_defaults=False)
    monkeypatch.setattr("lm_eval.tasks.TaskManager", lambda **_: of_folder)  # its own index takes a minute to read
    with pytest.raises(UserError, match=said):
        run(checkpoint, tasks, tmp_path / "cache", name, metric=metric)
