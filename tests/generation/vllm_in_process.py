"""vLLM in this very process: run by an environment that has it and not the lab's other dependencies.

python vllm_in_process.py CHECKPOINT PROMPTS.json > completions.json
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from redi_lab.generation.engines import SamplingParams
from redi_lab.generation.vllm_engine import VLLMEngine


def main() -> None:
    """Complete greedily, twice: the model stays loaded."""
    results = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    checkpoint, prompts = Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text())
    engine = VLLMEngine(in_process=True)
    made = [engine.generate(checkpoint, prompts, SamplingParams(0.0, 1.0, 96, 1, 0)) for _ in range(2)]
    engine.close()
    print(json.dumps([[completion.token_ids for completion in each] for each in made]), file=results)


if __name__ == "__main__":
    main()
