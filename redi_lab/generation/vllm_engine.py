"""The engine for long completions and many of them: vLLM in worker processes.

    engine = VLLMEngine(python=".venv-vllm/bin/python", data_parallel_size=2)
    completions = engine.generate(folder, prompts, SamplingParams(0.6, 0.95, 1024, num_samples=4, seed=42))
    engine.close()

vLLM pins its own torch and transformers, so it may live in a separate environment: a worker is
`redi_lab.generation.vllm_worker`, run as a file by that environment's Python.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any, final

import numpy as np

from redi_lab.errors import UserError
from redi_lab.generation.checkpoint import Checkpoint, content_stamp
from redi_lab.generation.engines import Completion, Progress, SamplingParams
from redi_lab.generation.vllm_process import WORKER, WorkerProcess


@final
class VLLMEngine:
    """Continuous batching with vLLM.

    Sampling is seeded by (seed, prompt, sample): what shares a batch, a replica or a run changes a completion by
    rounding at most. The streams are vLLM's own, so sampled completions differ from those of the transformers engine;
    greedy ones agree.

    Args:
        python: Python of the environment that has vLLM; None for the one that runs this.
        data_parallel_size: Replicas, each a process with its share of the prompts, and on GPUs with its own devices.
        tensor_parallel_size: Devices that share one replica.
        dtype: "float32", "bfloat16", or "auto" for the precision that the checkpoint was saved in.
        options: Further arguments of vLLM's `EngineArgs`, such as max_num_seqs or gpu_memory_utilization.
    """

    name = "vllm"

    def __init__(
        self,
        python: str | None = None,
        data_parallel_size: int = 1,
        tensor_parallel_size: int = 1,
        dtype: str = "auto",
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self._python = python or sys.executable
        self._num_replicas = data_parallel_size
        self._settings: dict[str, Any] = {
            "dtype": dtype,
            "tensor_parallel_size": tensor_parallel_size,
            "options": dict(options or {}),
        }
        self._replicas: list[WorkerProcess] = []
        self._stamp: tuple[object, ...] = ()

    @cached_property
    def versions(self) -> Mapping[str, str]:
        """Versions of vLLM (its CPU build is a separate distribution), torch and transformers where it runs.

        Raises:
            UserError: There is no such Python.
        """
        command = [self._python, "-I", WORKER, "--versions"]
        try:
            answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        except (OSError, subprocess.CalledProcessError) as error:
            raise UserError(f"engine.python={self._python} cannot be run: {error}") from error
        versions: dict[str, str] = json.loads(answer)
        return versions

    @property
    def settings(self) -> Mapping[str, Any]:
        """Precision, split over devices (which moves rounding), and vLLM's options."""
        return self._settings

    def generate(
        self,
        checkpoint: Path,
        prompts: Sequence[Sequence[int]],
        sampling: SamplingParams,
        on_progress: Progress | None = None,
    ) -> list[Completion]:
        """See `Engine.generate`.

        A worker that is killed is started again and does what is left of its share.

        Raises:
            UserError: The folder cannot be loaded or names no end token; a prompt is empty or too long; vLLM fails, or
                is killed again and again.
        """
        opened = Checkpoint.open(checkpoint)
        opened.check_lengths(prompts, sampling.max_new_tokens, self._settings["options"].get("max_model_len"))
        # All samples of a prompt go to one replica, which then reads the prompt once.
        shares: list[list[dict[str, Any]]] = [[] for _ in range(self._num_replicas)]
        for problem, prompt in enumerate(prompts):
            for sample in sampling.sample_indices:
                request = {
                    "id": f"{problem} {sample}",
                    "prompt": list(prompt),
                    "temperature": sampling.temperature,
                    "top_p": sampling.top_p,
                    "max_tokens": sampling.max_new_tokens,
                    "stop": list(opened.stops),
                    "seed": None if sampling.temperature == 0 else _stream(sampling.seed, prompt, sample),
                    "logprobs": sampling.wants_token_logps,
                }
                shares[problem % self._num_replicas].append(request)
        completions: list[Completion] = []
        try:
            self._load(checkpoint, opened)
            for made in self._run(shares):
                problem, sample = map(int, made["id"].split())
                completions.append(opened.completion(problem, sample, made["token_ids"], made["logprobs"]))
                if on_progress is not None:
                    on_progress(len(completions), len(prompts) * sampling.num_samples)
        except BaseException:
            self.close()  # replicas that are in the middle of something cannot be asked again
            raise
        return sorted(completions, key=lambda completion: (completion.problem_index, completion.sample_index))

    def close(self) -> None:
        """See `Engine.close`."""
        for replica in self._replicas:
            replica.close()
        self._replicas = []

    def _load(self, path: Path, checkpoint: Checkpoint) -> None:
        """Make the replicas, or keep those that have this checkpoint loaded."""
        stamp = content_stamp(path)
        if self._replicas and self._stamp == stamp:
            return
        self.close()
        dtype, devices, options = self._settings.values()
        arguments: dict[str, Any] = {"dtype": checkpoint.dtype if dtype == "auto" else dtype}
        if checkpoint.max_positions is not None:
            arguments["max_model_len"] = checkpoint.max_positions
        arguments |= {"tensor_parallel_size": devices} | options
        self._replicas = [
            WorkerProcess(self._python, path, arguments, rank, self._num_replicas) for rank in range(self._num_replicas)
        ]
        self._stamp = stamp

    def _run(self, shares: Sequence[Sequence[dict[str, Any]]]) -> Iterator[dict[str, Any]]:
        """Completions of all replicas as they come, each replica waited for by a thread."""
        done: SimpleQueue[dict[str, Any] | Exception] = SimpleQueue()

        def serve(replica: WorkerProcess, share: Sequence[dict[str, Any]]) -> None:
            try:
                for made in replica.generate(share):
                    done.put(made)
            except Exception as error:  # raised again where the completions are read
                done.put(error)

        for replica, share in zip(self._replicas, shares, strict=True):
            Thread(target=serve, args=(replica, share), daemon=True).start()
        for _ in range(sum(map(len, shares))):
            item = done.get()
            if isinstance(item, Exception):
                raise item
            yield item


def _stream(seed: int, prompt: Sequence[int], sample: int) -> int:
    """The seed of one completion's stream, below 2^63; equal prompts share their streams."""
    content = np.asarray([seed, sample, *prompt], dtype=np.int64).tobytes()
    return int.from_bytes(hashlib.sha256(content).digest()[:8], "big") >> 1
