"""The engine around a stand-in for the worker; `test_vllm_real.py` has the real one."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from redi_lab.errors import UserError
from redi_lab.generation.engines import Completion, SamplingParams
from redi_lab.generation.vllm_engine import VLLMEngine
from tests.generation.drawing import generate

PROMPTS = [[3, 1, 4], [1], [5, 9, 2, 6, 5, 3, 5], [8, 9], [7, 9, 3, 2, 3]]


def sampling(**changes: Any) -> SamplingParams:
    return SamplingParams(
        **({"temperature": 0.8, "top_p": 0.9, "max_new_tokens": 40, "num_samples": 3, "seed": 7} | changes)
    )


def by_row(completions: list[Completion]) -> dict[tuple[int, int], tuple[int, ...]]:
    return {(made.problem_index, made.sample_index): made.token_ids for made in completions}


def starts(mischief: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in mischief.with_suffix(".starts").read_text().splitlines()]


def is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def test_completions_are_cut_decoded_and_ordered(checkpoint: Path, python: str) -> None:
    engine = VLLMEngine(python)
    seen: list[tuple[int, int]] = []
    made = generate(engine, checkpoint, PROMPTS, sampling(), lambda done, total: seen.append((done, total)))
    assert [(c.problem_index, c.sample_index) for c in made] == [(p, s) for p in range(5) for s in range(3)]
    assert {(c.finish_reason, len(c.token_ids), c.token_ids[-1], c.token_logps) for c in made} == {
        ("stop", 3, 22, None)
    }
    assert made[3].text == " ".join(map(str, made[3].token_ids[:2]))
    assert made[3].token_ids[0] == 1
    assert seen == [(done, 15) for done in range(1, 16)]
    cut = generate(engine, checkpoint, PROMPTS, sampling(max_new_tokens=2, wants_token_logps=True))
    assert {(c.finish_reason, len(c.token_ids), c.token_logps) for c in cut} == {("length", 2, (-0.5, -0.5))}
    engine.close()


def test_more_samples_other_orders_and_replicas_change_no_completion(checkpoint: Path, python: str) -> None:
    engine, replicas = VLLMEngine(python), VLLMEngine(python, data_parallel_size=3)
    few = by_row(generate(engine, checkpoint, PROMPTS, sampling(num_samples=2)))
    many = by_row(generate(engine, checkpoint, PROMPTS, sampling(num_samples=5)))
    assert few.items() <= many.items()
    later = by_row(generate(engine, checkpoint, PROMPTS, sampling(num_samples=3, first_sample=2)))
    assert few | later == many
    turned = by_row(generate(engine, checkpoint, PROMPTS[::-1], sampling(num_samples=2)))
    assert {(4 - problem, sample): tokens for (problem, sample), tokens in turned.items()} == few
    assert by_row(generate(replicas, checkpoint, PROMPTS, sampling(num_samples=5))) == many
    assert by_row(generate(engine, checkpoint, PROMPTS, sampling(num_samples=5, seed=8))) != many
    engine.close()
    replicas.close()


def test_workers_stay_for_the_next_call_and_end_with_the_engine(
    checkpoint: Path, python: str, mischief: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
    engine = VLLMEngine(python, data_parallel_size=2, tensor_parallel_size=2, options={"max_num_seqs": 9})
    for _ in range(2):
        generate(engine, checkpoint, PROMPTS, sampling())
    first, second = sorted(starts(mischief), key=lambda start: str(start["devices"]))
    assert (first["devices"], second["devices"]) == ("0,1", "2,3")
    assert first["arguments"][0] == str(checkpoint)
    assert json.loads(first["arguments"][1]) == {
        "dtype": "float32",
        "max_model_len": 64,
        "tensor_parallel_size": 2,
        "max_num_seqs": 9,
    }
    assert is_alive(first["pid"])
    engine.close()
    assert not is_alive(first["pid"])
    assert not is_alive(second["pid"])
    assert list(mischief.parent.glob("*.log")) == []


def test_replicas_take_their_part_of_the_visible_devices(
    checkpoint: Path, python: str, mischief: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7,5")
    engine = VLLMEngine(python, data_parallel_size=3)
    generate(engine, checkpoint, PROMPTS[:2], sampling(num_samples=1))  # nothing is left for the third
    engine.close()
    assert {start["devices"] for start in starts(mischief)} == {"4", "7"}
    with pytest.raises(UserError, match=r"^engine.tensor_parallel_size=2: 2 at once need 4 GPUs, .* has 3"):
        generate(VLLMEngine(python, data_parallel_size=2, tensor_parallel_size=2), checkpoint, PROMPTS, sampling())


def test_a_changed_checkpoint_is_loaded_anew(checkpoint: Path, python: str, mischief: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(checkpoint, tmp_path / "copy")
    engine = VLLMEngine(python)
    generate(engine, folder, PROMPTS, sampling())
    os.utime(folder / "model.safetensors", (time.time(), time.time() + 5))
    generate(engine, folder, PROMPTS, sampling())
    assert len(starts(mischief)) == 2
    engine.close()


@pytest.mark.parametrize("replicas", [1, 2])
def test_a_killed_worker_is_started_again_and_loses_nothing(
    checkpoint: Path, python: str, mischief: Path, replicas: int
) -> None:
    engine = VLLMEngine(python, data_parallel_size=replicas)
    whole = generate(engine, checkpoint, PROMPTS, sampling())
    engine.close()
    before = len(starts(mischief))
    mischief.write_text("kill 4")
    seen: list[int] = []
    assert generate(engine, checkpoint, PROMPTS, sampling(), lambda done, _: seen.append(done)) == whole
    assert seen == list(range(1, 16))  # none twice
    assert len(starts(mischief)) - before == replicas + 1
    engine.close()


def test_a_worker_that_is_killed_again_and_again_is_given_up(checkpoint: Path, python: str, mischief: Path) -> None:
    mischief.write_text("always kill")
    engine = VLLMEngine(python, data_parallel_size=2)
    with pytest.raises(UserError, match=r"^worker [01] died 3 times in a row, at last because SIGKILL ended vLLM: if"):
        generate(engine, checkpoint, PROMPTS, sampling())
    assert not any(is_alive(replica) for replica in (start["pid"] for start in starts(mischief)))


def test_a_worker_that_fails_says_why(checkpoint: Path, python: str, mischief: Path) -> None:
    mischief.write_text("fail")
    with pytest.raises(
        UserError, match=r"^vLLM ended with status 1: ValueError: the KV cache is too small \(log: .*\.log\)$"
    ):
        generate(VLLMEngine(python), checkpoint, PROMPTS, sampling())


def test_too_long_requests_are_refused_before_anything_starts(checkpoint: Path, python: str, mischief: Path) -> None:
    with pytest.raises(UserError, match=r"prompt 2 has 7 tokens .* together 65, more than the model's 64 positions"):
        generate(VLLMEngine(python), checkpoint, PROMPTS, sampling(max_new_tokens=58))
    with pytest.raises(UserError, match=r"together 47, more than the model's 46 positions"):
        generate(VLLMEngine(python, options={"max_model_len": 46}), checkpoint, PROMPTS, sampling())
    assert not mischief.with_suffix(".starts").exists()


def test_settings_and_versions_speak_for_the_numbers(python: str) -> None:
    engine = VLLMEngine(python, tensor_parallel_size=2, data_parallel_size=4, options={"block_size": 32})
    assert engine.settings == {"dtype": "auto", "tensor_parallel_size": 2, "options": {"block_size": 32}}
    assert engine.versions == {"vllm": "0.0"}
    with pytest.raises(UserError, match=r"engine\.python=/nowhere cannot be run"):
        _ = VLLMEngine("/nowhere").versions
