"""The engine for long completions and many of them: vLLM in worker processes.

    engine = VLLMEngine(python=".venv-vllm/bin/python", data_parallel_size=2)
    request = Request(prompts, SamplingParams(0.6, 0.95, 1024, num_samples=4, seed=42))
    for number, completions in engine.stream(folder, [request]):
        ...
    engine.close()

vLLM pins its own torch and transformers, so it may live in a separate environment: a worker is
`redi_lab.generation.vllm_worker`, run as a file by that environment's Python.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, final

import numpy as np

from redi_lab.errors import UserError
from redi_lab.executor.crew import Crew, Worker
from redi_lab.executor.local import share_of_machine, visible_gpus
from redi_lab.generation.checkpoint import Checkpoint, content_stamp
from redi_lab.generation.engines import Completion, Progress, Request
from redi_lab.generation.vllm_process import WORKER, Replica

IN_FLIGHT = 1024  # completions of a replica at once: vLLM's own limit on a large GPU


@final
class VLLMEngine:
    """Continuous batching with vLLM.

    Sampling is seeded by (seed, prompt, sample): what shares a batch, a replica or a run changes a completion by
    rounding at most. The streams are vLLM's own, so sampled completions differ from those of the transformers engine;
    greedy ones agree.

    Args:
        python: Python of the environment that has vLLM; None for the one that runs this.
        data_parallel_size: Replicas, each a process that takes completions from one queue, and on GPUs has its own
            devices.
        tensor_parallel_size: Devices that share one replica.
        dtype: "float32", "bfloat16", or "auto" for the precision that the checkpoint was saved in.
        options: Further arguments of vLLM's `EngineArgs`, such as max_num_seqs or gpu_memory_utilization.
        cluster: Address of a Ray cluster, on whose machines the replicas run; None: on this one.
    """

    name = "vllm"

    def __init__(
        self,
        python: str | None = None,
        data_parallel_size: int = 1,
        tensor_parallel_size: int = 1,
        dtype: str = "auto",
        options: Mapping[str, Any] | None = None,
        cluster: str | None = None,
    ) -> None:
        self._python = python or sys.executable
        self._num_replicas = data_parallel_size
        self._settings: dict[str, Any] = {
            "dtype": dtype,
            "tensor_parallel_size": tensor_parallel_size,
            "options": dict(options or {}),
        }
        self._cluster = cluster
        self._replicas: Crew | None = None
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

    def stream(
        self, checkpoint: Path, requests: Sequence[Request], on_progress: Progress | None = None
    ) -> Iterator[tuple[int, list[Completion]]]:
        """See `Engine.stream`; yields each completion as it is finished.

        All requests are one queue, from which the replicas are kept busy. One that is killed is replaced.

        Raises:
            UserError: The folder cannot be loaded or names no end token; a prompt is empty or too long; vLLM fails, or
                is killed again and again.
        """
        opened = Checkpoint.open(checkpoint)
        longest = self._settings["options"].get("max_model_len")
        for request in requests:
            opened.check_lengths(request.prompts, request.sampling.max_new_tokens, longest)
        num_done = [0] * len(requests)
        try:
            for asked, made in self._load(checkpoint, opened).run(_questions(requests, opened.stops)):
                number, problem, sample = map(int, asked["id"].split())
                num_done[number] += 1
                if on_progress is not None:
                    on_progress(number, num_done[number])
                yield number, [opened.completion(problem, sample, made["token_ids"], made["logprobs"])]
        except BaseException:
            self.close()  # replicas that are in the middle of something cannot be asked again
            raise

    def close(self) -> None:
        """See `Engine.close`."""
        if self._replicas is not None:
            self._replicas.close()
        self._replicas = None

    def _load(self, path: Path, checkpoint: Checkpoint) -> Crew:
        """Make the replicas, or keep those that have this checkpoint loaded."""
        stamp = content_stamp(path)
        if self._replicas is not None and self._stamp == stamp:
            return self._replicas
        self.close()
        dtype, devices, options = self._settings.values()
        arguments: dict[str, Any] = {"dtype": checkpoint.dtype if dtype == "auto" else dtype}
        if checkpoint.max_positions is not None:
            arguments["max_model_len"] = checkpoint.max_positions
        arguments |= {"tensor_parallel_size": devices} | options
        in_flight = options.get("max_num_seqs", IN_FLIGHT)
        start = self._starter(partial(Replica, self._python, path, arguments), in_flight)
        self._replicas, self._stamp = Crew(start, self._num_replicas, in_flight=in_flight), stamp
        return self._replicas

    def _starter(self, replica: Callable[..., Replica], in_flight: int) -> Callable[[int], Worker]:
        devices, key = self._settings["tensor_parallel_size"], "engine.tensor_parallel_size"
        if self._cluster is not None:
            from redi_lab.executor.cluster import actors

            return actors(self._cluster, replica, None if devices == 1 else devices, key, in_flight)
        gpus = devices if visible_gpus() and self._num_replicas > 1 else None
        shares = [share_of_machine(rank, self._num_replicas, gpus, key) for rank in range(self._num_replicas)]
        return lambda rank: replica(shares[rank])


def _questions(requests: Sequence[Request], stops: Sequence[int]) -> Iterator[dict[str, Any]]:
    """What the replicas are asked, one by one."""
    for number, request in enumerate(requests):
        sampling = request.sampling
        for problem, sample in request.indices:
            prompt = request.prompts[problem]
            yield {
                "id": f"{number} {problem} {sample}",
                "prompt": list(prompt),
                "temperature": sampling.temperature,
                "top_p": sampling.top_p,
                "max_tokens": sampling.max_new_tokens,
                "stop": list(stops),
                "seed": None if sampling.temperature == 0 else _stream(sampling.seed, prompt, sample),
                "logprobs": sampling.wants_token_logps,
            }


def _stream(seed: int, prompt: Sequence[int], sample: int) -> int:
    """The seed of one completion's stream, below 2^63; equal prompts share their streams."""
    content = np.asarray([seed, sample, *prompt], dtype=np.int64).tobytes()
    return int.from_bytes(hashlib.sha256(content).digest()[:8], "big") >> 1
