"""Workers on a Ray cluster of which a node is killed: nothing is lost, nothing is there twice.

A cluster is slow to start: each test is a whole piece of work.
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from redi_lab.cli import main
from redi_lab.errors import UserError
from redi_lab.evaluation.samples import Draw, SampleStore, draw_samples
from redi_lab.executor import crew as crews
from redi_lab.executor.local import starter
from redi_lab.files import file_digest
from redi_lab.generation.engines import SamplingParams
from redi_lab.generation.vllm_engine import VLLMEngine
from redi_lab.verbs.sweep.study import open_study
from redi_lab.verbs.sweep.workers import Claims, run_workers
from tests.evaluation.test_samples import stored
from tests.executor import works
from tests.executor.conftest import TwoNodes
from tests.generation.drawing import generate
from tests.verbs.sweep import fakes

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(240),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # Ray's own, and its open sockets
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


def test_a_sweep_loses_no_trial_and_runs_none_twice(two_nodes: TwoNodes, tmp_path: Path) -> None:
    sweep = fakes.make_sweep(tmp_path, num_trials=8, num_workers=3)
    sweep = replace(sweep, cluster=two_nodes.address)
    study = open_study(sweep)
    Claims(study, sweep.settings).plan(8)
    log = tmp_path / "log"

    def kill() -> None:
        while not (log.exists() and len({line.split()[-1] for line in log.read_text().splitlines()}) == 3):
            time.sleep(0.01)
        two_nodes.kill_second()

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    run_workers(sweep, study, run=fakes.log_slowly)
    thread.join(10)
    states = Counter(trial.state.name for trial in study.trials)
    assert states["COMPLETE"] == 8
    assert 1 <= states["FAIL"] <= 2  # what the node had, which waits anew
    assert set(states) == {"COMPLETE", "FAIL"}
    ended = [line.split()[2:4] for line in log.read_text().splitlines() if line.startswith("ended")]
    assert len(ended) == len({tuple(values) for values in ended}) == 8
    lost = [trial for trial in study.trials if trial.state.name == "FAIL"]
    assert all("a worker of the Ray cluster was lost" in trial.user_attrs["interrupted"] for trial in lost)


def test_an_evaluation_loses_no_completion_and_draws_none_twice(
    two_nodes: TwoNodes, checkpoint: Path, python: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = [[1 + number % 5, number % 20] for number in range(60)]
    sampling = SamplingParams(0.8, 0.9, 40, num_samples=3, seed=7)
    with closing(VLLMEngine(python)) as here:
        whole = generate(here, checkpoint, prompts, sampling)
    monkeypatch.setenv("SECONDS_A_TOKEN", "0.02")
    engine = VLLMEngine(python, data_parallel_size=3, options={"max_num_seqs": 4}, cluster=two_nodes.address)
    store = SampleStore(tmp_path / "samples", {"is": "it"})
    kills = iter([two_nodes.kill_second])

    def kill(done: int, total: int) -> None:
        if done > 40:
            next(kills, lambda: None)()

    [drawn] = draw_samples(engine, checkpoint, [Draw(prompts, sampling, store, 8, kill)])
    engine.close()
    assert [sample.text for samples in drawn for sample in samples] == [made.text for made in whole]
    assert set(stored(store.path).values()) == {1}
    assert len(stored(store.path)) == 180
    started = {json.loads(line)["pid"] for line in (tmp_path / "mischief.starts").read_text().splitlines()[1:]}
    assert len(started) >= 3  # at least; those of the dead node are started anew where there is room


def test_a_curation_has_the_same_bytes(two_nodes: TwoNodes, tmp_path: Path) -> None:
    rows = [
        {
            "problem": f"What is {i} + 4?",
            "answer": str(i + 4),
            "generations": [{"text": f"It is \\boxed{{{i + n}}}. {'x' * 4000}", "correct": None} for n in (4, 5, 6)],
        }
        for i in range(1500)
    ]
    source = tmp_path / "rows.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def curate(name: str, *more: str) -> list[str]:
        folder = tmp_path / name
        paths = [f"paths.outputs_dir={tmp_path}", f"paths.output_dir={folder}"]
        main(["curate", "data=jsonl", f"data.path={source}", "curation=grader", *paths, *more])
        return [file_digest(folder / file) for file in ("sft.parquet", "pairs.parquet", "report.json")]

    here = curate("here", "curation.num_workers=0")
    kills = iter([two_nodes.kill_second])
    run_all = crews.Crew.run

    def run(crew: Any, *arguments: Any) -> Any:
        for number, made in enumerate(run_all(crew, *arguments)):
            if number == 3:
                next(kills)()
            yield made

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(crews.Crew, "run", run)
        there = curate("there", "launcher=ray", f"launcher.address={two_nodes.address}", "curation.num_workers=3")
    assert list(kills) == []
    assert there == here


def test_what_a_cluster_cannot_give_is_told_in_one_line(two_nodes: TwoNodes, checkpoint: Path, python: str) -> None:
    with pytest.raises(UserError, match=r"^sweep.gpus_per_trial=2: no machine of the Ray cluster has more than 0 GPUs"):
        starter(two_nodes.address, works.make_square, lambda _: {}, 2, "sweep.gpus_per_trial")
    crew = crews.Crew(starter(two_nodes.address, works.make_broken, lambda _: {}), 1)
    with pytest.raises(ValueError, match="no tokenizer there"):
        list(crew.run(iter([1])))


def test_a_cluster_that_is_not_there_is_told_in_one_line() -> None:
    pytest.importorskip("ray", reason="needs the extra ray")
    with pytest.raises(UserError, match=r"^launcher.address=127.0.0.1:9: no Ray cluster can be reached there"):
        starter("127.0.0.1:9", works.make_square, lambda _: {})
