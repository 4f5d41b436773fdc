"""What is looked at during training: problems for val/pass_at_1, and sequences for the probes.

No such problem is trained on or part of the final evaluation. Where they come from, the first that there is:

- Problems: the file `data.development_path`; further ones, where the source can make them (the embedded task); the
  last `data.num_development` of the held-out problems, which the final evaluation then leaves out.
- Probes: validation examples (`data.num_validation`); further pairs, where the source can make them; the first
  examples of the training set, which is said on the screen.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, final

from omegaconf import DictConfig

from redi_lab.data.datamodule import TraceDataModule
from redi_lab.data.pairing import far_pairs
from redi_lab.data.selection import text_key
from redi_lab.data.simulated import SimulatedSource
from redi_lab.data.tokenization import TokenizedSequence, TraceEncoder
from redi_lab.data.traces import Pair
from redi_lab.errors import UserError
from redi_lab.evaluation.benchmarks import Benchmark
from redi_lab.generation.engines import SamplingParams
from redi_lab.run.benchmarks import development_problems, texts_of
from redi_lab.run.screen import say
from redi_lab.run.stages import OpenedData


@final
@dataclass(frozen=True)
class Development:
    """Problems for accuracy during training, None where there are none, and pairs for the probes where they are made.

    `origin` says in words where the problems come from.
    """

    benchmark: Benchmark | None
    origin: str
    pairs: tuple[Pair, ...] = ()

    def as_dict(self, sampling: SamplingParams | None) -> dict[str, Any] | None:
        """What a summary says of the problems, and of how answers to them are drawn."""
        if self.benchmark is None:
            return None
        return {
            "origin": self.origin,
            "num_problems": len(self.benchmark.problems),
            "digest": self.benchmark.digest,
            "sampling": None if sampling is None else asdict(sampling),
        }


def load_development(config: DictConfig, data: OpenedData, final: Benchmark | None) -> Development:
    """Find both, and make sure that the problems occur neither in training nor in the final evaluation.

    Args:
        config: with the groups data and callbacks.
        data: what is trained on.
        final: the problems of the final evaluation, where those are not the development problems themselves.

    Raises:
        UserError: some of the problems are trained on or part of the final evaluation, or they cannot be read.
    """
    corpus, number = data.corpus, config.data.num_development
    trained = {row.problem for rows in (corpus.demonstrations, corpus.pairs, corpus.negatives) for row in rows}
    evaluated = set() if final is None else {problem.problem for problem in final.problems}
    problems, origin = development_problems(config, data.source, corpus, evaluated)
    pairs: tuple[Pair, ...] = ()
    if isinstance(data.source, SimulatedSource):
        num_pairs = config.callbacks.probes.num_examples if config.callbacks.get("probes") else 0
        _, pairs = data.source.further(number, num_pairs, texts_of(corpus).union(evaluated))
        pairs = far_pairs(pairs, config.data.negatives, config.seed)
    if not problems:
        return Development(None, origin, pairs)
    benchmark = Benchmark.of("development", problems)
    for texts, where in ((trained, "trained on"), (evaluated, "part of the final evaluation")):
        _check_disjoint(benchmark, texts, where)
    return Development(benchmark, origin, pairs)


def choose_observed(
    config: DictConfig, development: Development, data: TraceDataModule, encoder: TraceEncoder
) -> list[TokenizedSequence]:
    """The probes, none where nothing looks at them; says where they and the problems come from."""
    if config.callbacks.get("accuracy") and development.benchmark is not None:
        say(f"accuracy during training: {len(development.benchmark.problems)} {development.origin}")
    if not config.callbacks.get("probes"):
        return []
    probes, origin = choose_probes(data, encoder, development.pairs, config.callbacks.probes.num_examples)
    say(f"probes: {len(probes)} {origin}")
    return probes


def _check_disjoint(benchmark: Benchmark, texts: Iterable[str], where: str) -> None:
    known = set(map(text_key, texts))
    shared = [problem.id for problem in benchmark.problems if text_key(problem.problem) in known]
    if shared:
        raise UserError(
            f"{len(shared)} of the {len(benchmark.problems)} development problems are {where}, first {shared[0]}:"
            " remove them from data.development_path, or set data.num_development=0"
        )


def choose_probes(
    data: TraceDataModule, encoder: TraceEncoder, pairs: Sequence[Pair], number: int
) -> tuple[list[TokenizedSequence], str]:
    """Up to `number` chosen and, unless the data are demonstrations, as many rejected sequences; and their origin."""
    examples, origin = data.train_examples, "sequences of the training set, since data.num_validation=0 keeps none back"
    if data.val_examples:
        examples, origin = data.val_examples, "sequences of validation examples"
    elif pairs:
        chosen, rejected = (
            one.encode_all([(pair.id, pair.problem, getattr(pair, side)) for pair in pairs])
            for side, one in (("chosen", encoder), ("rejected", encoder.rejected))
        )
        examples = [(c, replace(r, is_chosen=False)) for c, r in zip(chosen, rejected, strict=True)]
        origin = "sequences of further pairs"
    sequences = [sequence for example in examples for sequence in example]
    sides = (True,) if data.task == "demonstrations" else (True, False)
    return [s for side in sides for s in [s for s in sequences if s.is_chosen is side][:number]], origin
