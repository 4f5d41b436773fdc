"""What is looked at during training is neither trained on nor part of the final evaluation."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from omegaconf import DictConfig

from redi_lab.cli import main
from redi_lab.config.compose import load_config
from redi_lab.data.arithmetic import build_tokenizer
from redi_lab.data.tokenization import TraceEncoder
from redi_lab.data.traces import Pair
from redi_lab.errors import UserError
from redi_lab.evaluation.benchmarks import Benchmark
from redi_lab.run import build
from redi_lab.run.benchmarks import make_benchmark
from redi_lab.run.stages import OpenedData
from redi_lab.tracking.journal import read_curves
from redi_lab.verbs.train.development import Development, choose_probes, load_development

SMALL = ("data.source.num_problems=60", "data.source.num_heldout=20", "data.num_development=8")
PAIR = Pair("fresh", "11 , first add 12 ?", "\\boxed { 23 }", "\\boxed { 24 }")


def own_traces(folder: Path) -> Path:
    """Twelve problems with a right and a wrong trace each."""
    path = folder / "traces.jsonl"
    rows = [
        {
            "problem": f"{n} + 1?",
            "answer": str(n + 1),
            "generations": [{"text": f"\\boxed {{ {n + 1} }}", "correct": True}, {"text": "0", "correct": False}],
        }
        for n in range(12)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def load(*overrides: str) -> tuple[DictConfig, Development, Benchmark | None]:
    config = load_config("train", list(overrides))
    data = OpenedData(config)
    final = make_benchmark(config, lambda: data.corpus)
    return config, load_development(config, data, final), final


def texts(benchmark: Benchmark | None) -> set[str]:
    return set() if benchmark is None else {problem.problem for problem in benchmark.problems}


def test_the_embedded_task_makes_further_problems_and_evaluates_on_all_it_holds_out() -> None:
    config, development, final = load(*SMALL, "callbacks.probes.num_examples=5")
    corpus = build.make_source(config).load()
    assert len(texts(final)) == 20
    assert len(texts(development.benchmark)) == 8
    assert len(development.pairs) == 5
    looked_at = texts(development.benchmark) | {pair.problem for pair in development.pairs}
    assert len(looked_at) == 13
    assert not looked_at & (texts(final) | {row.problem for row in corpus.demonstrations})
    summary = development.as_dict(None)
    assert summary is not None
    assert (summary["origin"], summary["num_problems"]) == ("further problems", 8)


def test_of_own_traces_the_last_held_out_problems_are_set_apart(tmp_path: Path) -> None:
    own = ["data=jsonl", f"data.path={own_traces(tmp_path)}", "data.source.num_heldout=6"]
    _, nothing, everything = load(*own)
    assert nothing.benchmark is None
    assert nothing.as_dict(None) is None
    _, development, final = load(*own, "data.num_development=2")
    assert (len(texts(development.benchmark)), len(texts(final))) == (2, 4)
    assert texts(development.benchmark) | texts(final) == texts(everything)
    with pytest.raises(UserError, match=r"data\.num_development=6: 6 problems are held out, and some must remain"):
        load(*own, "data.num_development=6")
    with pytest.raises(UserError, match=r"data\.num_development=7: there are 6 held-out problems; lower it"):
        load(*own, "data.num_development=7", "eval=none")


def test_problems_of_a_file_must_be_new(tmp_path: Path) -> None:
    file = tmp_path / "development.jsonl"
    file.write_text('{"problem": "11 , first add 11 , second add 11 ?", "answer": 33}\n')
    arguments = [*SMALL, f"data.development_path={file}"]
    with pytest.raises(UserError, match=r"data\.num_development=8: there are 1 problems in .*development\.jsonl"):
        load(*arguments)
    _, development, final = load(*arguments, "data.num_development=1")
    assert development.as_dict(None) is not None
    assert len(texts(final)) == 20
    config = load_config("train", list(SMALL))
    corpus = build.make_source(config).load()
    for row, where in ((corpus.demonstrations[3], "trained on"), (corpus.held_out[2], "part of the final evaluation")):
        file.write_text(json.dumps({"problem": f" {row.problem}\n", "answer": "1", "id": "mine"}) + "\n")
        with pytest.raises(UserError, match=f"1 of the 1 development problems are {where}, first mine: remove"):
            load(*arguments, "data.num_development=1")


@pytest.mark.parametrize(
    ("overrides", "pairs", "sizes", "origin"),
    [
        (["data.num_validation=4"], [PAIR], (4, 4), "sequences of validation examples"),
        ([], [PAIR], (1, 1), "sequences of further pairs"),
        ([], [], (6, 6), "sequences of the training set, since data.num_validation=0 keeps none back"),
        (["loss=unpaired_redi"], [], (6, 6), "sequences of the training set, since data.num_validation=0 keeps none"),
        (["+experiment=demo_sft"], [PAIR], (1, 0), "sequences of further pairs"),
    ],
)
def test_probes_come_from_the_first_place_that_has_some(
    overrides: list[str], pairs: list[Pair], sizes: tuple[int, int], origin: str
) -> None:
    config = load_config("train", [*overrides, *SMALL])
    encoder = TraceEncoder(build_tokenizer())
    data = build.make_datamodule(config, build.make_source(config).load(), encoder)
    probes, found = choose_probes(data, encoder, pairs, 6)
    assert (sum(p.is_chosen for p in probes), sum(not p.is_chosen for p in probes)) == sizes
    assert found.startswith(origin)


def test_probes_of_further_pairs_have_the_prompts_of_their_sides() -> None:
    encoder = TraceEncoder(build_tokenizer(), "right {problem}", "", "wrong {problem}")
    config = load_config("train", SMALL)
    data = build.make_datamodule(config, build.make_source(config).load(), encoder)
    chosen, rejected = choose_probes(data, encoder, [PAIR], 1)[0]
    prompts = [encoder.tokenizer.decode(probe.input_ids[: probe.prompt_length]) for probe in (chosen, rejected)]
    assert prompts == [f"right {PAIR.problem}", f"wrong {PAIR.problem}"]


def test_an_own_data_set_is_measured_during_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        *("data=jsonl", f"data.path={own_traces(tmp_path)}", "data.source.num_heldout=4", "data.num_development=2"),
        *("data.batch_size=2", "trainer.max_steps=3", "init_from=null", "eval.max_new_tokens=8", "eval.num_samples=1"),
        *("model.config.hidden_size=24", "model.config.num_hidden_layers=1", "callbacks.accuracy.every_n_steps=2"),
    ]
    main([*arguments, "logger=none", f"paths.output_dir={tmp_path / 'run'}", f"paths.outputs_dir={tmp_path / 'o'}"])
    screen = " ".join(capsys.readouterr().out.split())
    assert "accuracy during training: 2 held-out problems" in screen
    assert "sequences of the training set, since data.num_validation=0 keeps none back" in screen
    assert read_curves(tmp_path / "run" / "metrics.jsonl")["val/pass_at_1"].steps == [0, 2, 3]
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["data"]["development"]["num_problems"] == 2
    assert summary["metrics"]["num_problems"]["value"] == 2
