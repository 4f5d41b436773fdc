"""What both sides train on: random models and random traces of the shapes that the benchmark names.

Nothing here is learnt, so random tokens will do; what matters is sizes, and how much lengths differ.
"""

from __future__ import annotations

import json
import math
import random
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, final

from redi_lab.planning.step import forward_work


@final
@dataclass(frozen=True)
class Shape:
    """A Qwen2 with tied embeddings, and the lengths of its traces, prompt included."""

    name: str
    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    intermediate_size: int
    median_length: int
    longest: int
    spread: float = 0.7  # σ of the lognormal; padding to the longest of four then doubles the tokens


SHAPES = {
    shape.name: shape
    for shape in (
        Shape("A", 151_936, 256, 4, 4, 2, 704, median_length=384, longest=1024),
        Shape("B", 32_000, 512, 8, 8, 2, 1408, median_length=512, longest=2048),
        Shape("tiny", 499, 32, 2, 4, 2, 48, median_length=40, longest=80),
        Shape("paper", 151_936, 1536, 28, 12, 2, 8960, median_length=4000, longest=19_000),
    )
}


@final
@dataclass(frozen=True)
class Workload:
    """Pairs of each step, and how they are trained on. Written as JSON for the sides to read."""

    shape: str
    objective: str
    precision: str
    pairs: list[dict[str, list[int]]]
    pairs_per_step: int
    model: str
    micro_batch_tokens: int
    gradient_checkpointing: bool = False
    attention: str = "packed_sdpa"
    learning_rate: float = 1e-5
    max_grad_norm: float = 1.0
    alpha: float = 0.8
    beta: float = 0.1
    simpo_beta: float = 2.0
    simpo_gamma: float = 1.0

    def write(self, file: Path) -> Path:
        """As JSON."""
        file.write_text(json.dumps(asdict(self)), encoding="utf-8")
        return file

    @staticmethod
    def read(file: Path) -> Workload:
        """What `write` wrote."""
        return Workload(**json.loads(file.read_text(encoding="utf-8")))

    @staticmethod
    def is_linear(objective: str) -> bool:
        """Whether the sides of a pair need not meet in one forward pass."""
        return objective in ("sft", "redi")

    @property
    def num_steps(self) -> int:
        """Optimizer steps of one way through the pairs."""
        return len(self.pairs) // self.pairs_per_step

    def sequences(self, step: int) -> list[tuple[int, int]]:
        """(tokens, completion tokens) of each sequence of a step."""
        chosen = self.pairs[step * self.pairs_per_step : (step + 1) * self.pairs_per_step]
        return [
            (len(pair["prompt"]) + len(pair[side]), len(pair[side]))
            for pair in chosen
            for side in ("chosen", "rejected")
        ]

    def tokens(self, step: int) -> int:
        """Real tokens of a step, prompts included."""
        return sum(tokens for tokens, _ in self.sequences(step))

    def flops(self, step: int) -> float:
        """Floating-point operations that a step needs: three times its forward pass, with no padding and no recompute.

        The head counts at completion tokens alone, attention at half its square.
        """
        s = SHAPES[self.shape]
        width = s.hidden_size // s.num_attention_heads
        attention = s.hidden_size**2 * 2 + 2 * s.hidden_size * s.num_key_value_heads * width
        forward = forward_work(
            self.sequences(step),
            products=s.num_hidden_layers * (attention + 3 * s.hidden_size * s.intermediate_size),
            attention_width=s.num_hidden_layers * s.hidden_size,
            head=s.hidden_size * s.vocab_size,
        )
        return 3.0 * sum(forward)


def draw_pairs(shape: Shape, number: int, *, seed: int = 0, length: int | None = None) -> list[dict[str, list[int]]]:
    """Pairs with lognormal lengths, or all of one `length`; a tenth of the median is prompt."""
    rng = random.Random(seed)
    prompt_length = shape.median_length // 10

    def completion() -> list[int]:
        total = length
        while total is None or not prompt_length + 8 <= total <= max(shape.longest, length or 0):
            total = round(math.exp(rng.gauss(math.log(shape.median_length), shape.spread)))
        return [rng.randrange(10, shape.vocab_size) for _ in range(total - prompt_length)]

    return [
        {
            "prompt": [rng.randrange(10, shape.vocab_size) for _ in range(prompt_length)],
            "chosen": completion(),
            "rejected": completion(),
        }
        for _ in range(number)
    ]


def make_model(shape: Shape, folder: Path, *, longest: int) -> Path:
    """A Hugging Face folder with random weights, and a tokenizer that nobody needs but everybody asks for."""
    import torch
    from transformers import AutoModelForCausalLM, Qwen2Config

    from redi_lab.data.arithmetic import build_tokenizer

    place = folder / shape.name
    if place.is_dir():
        return place
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        key: getattr(shape, key)
        for key in ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
    }
    config = Qwen2Config(
        **sizes,
        intermediate_size=shape.intermediate_size,
        tie_word_embeddings=True,
        max_position_embeddings=max(longest, shape.longest),
        eos_token_id=0,
        pad_token_id=0,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(place)
    build_tokenizer().save_pretrained(place)
    return place
