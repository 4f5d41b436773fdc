"""The groups eval and engine, and how an evaluation may stop early."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, SerializeAsAny, model_validator

from redi_lab.config.schema.base import (
    Count,
    Name,
    NotNegative,
    Positive,
    PositiveShare,
    Seed,
    Settings,
    TargetSettings,
    Template,
    Text,
    Whole,
    Workers,
    allowed,
    by_target,
    fitting,
)
from redi_lab.errors import UserError, in_short


class GraderConfig(Settings):
    """Where answers stand, and limits of the grading workers."""

    num_workers: Workers
    timeout_seconds: Positive
    memory_mb: Annotated[int, Field(ge=512)]
    answers: Literal["boxed", "marker", "last_number"]


class EvalGraderConfig(GraderConfig):
    """Also what counts as an answer."""

    require_closed_thought: bool


_Problems = Literal[
    "heldout", "fresh", "development", "arithmetic", "chains", "chains_long", "chains_take", "jsonl", "hub"
]


class MemberConfig(Settings):
    """Where problems and their answers come from."""

    benchmark: _Problems
    name: Name | None
    path: Text | None
    config: Text | None
    split: Text
    revision: Text | None
    problem_key: Text
    answer_key: Text
    wrong_keys: Annotated[list[Text], Field(max_length=25)]


class ConditionConfig(Settings):
    """One way to ask the problems, see `redi_lab.evaluation.conditions.Condition`; what is not given is not said."""

    system: Text | None = None
    prefix: Text | None = None
    suffix: Text | None = None
    problem_key: Text | None = None
    steps: Annotated[Text, allowed(lambda text: "{text}" in text, "a text with {text} in it")] | None = None
    after: Name | None = None
    follow_up: Text | None = None
    only_wrong: bool = False
    is_judged: bool = False
    against: Name | None = None

    def check(self, place: str, earlier: Sequence[str]) -> None:
        """Hold its keys against each other, and against the conditions above it.

        Raises:
            UserError: they do not go together.
        """
        given = self.model_dump(exclude_defaults=True)
        if (against := given.pop("against", None)) not in (None, *earlier):
            raise UserError(f"{place}.against={against}: must be one of those above it ({', '.join(earlier)})")
        after, only_wrong = given.pop("after", None), given.pop("only_wrong", False)
        if (after is None) != (given.pop("follow_up", None) is None):
            raise UserError(f"{place}: after (a condition) and follow_up (what is said after its answers) go together")
        if after is not None and (after not in earlier or given):
            wrong = f".{next(iter(given))}" if given else f".after={after}"
            raise UserError(
                f"{place}{wrong}: a condition that follows another has only after, one of {', '.join(earlier)}"
                " above it, follow_up, only_wrong and against"
            )
        if only_wrong and after is None:
            raise UserError(f"{place}.only_wrong: wrong answers of which condition? add after and follow_up")
        if self.steps is not None and (self.is_judged or self.problem_key is not None):
            raise UserError(f"{place}.steps: asks about traces, so without problem_key and is_judged; drop those")


class JudgeConfig(Settings):
    """What says whether an answer finds fault with its question."""

    checkpoint: Text | None
    max_new_tokens: Count


class HarnessConfig(Settings):
    """Tasks of the lm-evaluation-harness, see `redi_lab.evaluation.harness.HarnessTasks`."""

    tasks: Annotated[list[Text], Field(min_length=1)]
    folder: Text | None
    metric: Text | None
    num_fewshot: Whole | None
    use_chat_template: bool
    batch_size: Count


_Parts = dict[Name, Annotated[list[Text], Field(min_length=1)]]


class EvalConfig(MemberConfig):
    """A benchmark, or a suite of them, and the protocol."""

    benchmark: Literal[_Problems, "suite", "lm_eval"] | None  # type: ignore[assignment]
    harness: HarnessConfig | None
    members: dict[Name, MemberConfig]
    offset: Whole
    limit: Count | None
    prompt_template: Template | None
    prompt_file: Text | None
    thinking_prefix: Text | None
    temperature: NotNegative
    top_p: PositiveShare
    num_samples: Annotated[int, Field(ge=1, le=100_000)]
    max_new_tokens: Count | None
    fit_context: bool
    chunk_completions: Count
    seed: Seed
    grader: EvalGraderConfig
    conditions: dict[Name, ConditionConfig]
    combine: dict[Literal["system", "prefix", "suffix"], _Parts]
    kind_key: Text | None
    follow_ups: Annotated[int, Field(ge=1, le=100_000)]
    judge: JudgeConfig

    @property
    def has_conditions(self) -> bool:
        """Whether the problems are asked in several ways."""
        return bool(self.conditions or self.combine)

    @model_validator(mode="after")
    def _check_conditions(self) -> Self:
        names = list(self.conditions)
        for number, (name, condition) in enumerate(self.conditions.items()):
            condition.check(f"eval.conditions.{name}", names[:number])
        if self.kind_key is not None and not self.has_conditions:
            raise UserError(f"eval.kind_key={self.kind_key}: a protocol with conditions has use for it; drop it")
        if self.has_conditions and self.benchmark in (None, "suite", "lm_eval"):
            raise UserError(
                f"eval={self.name or 'none'}: a protocol with conditions is for one benchmark; choose a single one"
            )
        return self

    @model_validator(mode="after")
    def _check_harness(self) -> Self:
        if (self.benchmark == "lm_eval") != (self.harness is not None):
            raise UserError("eval.harness: goes with eval=lm_eval; 'eval.harness.tasks=[hellaswag]' names tasks")
        if self.harness is not None and self.offset:
            raise UserError(f"eval.offset={self.offset}: eval=lm_eval takes the first documents of a task; drop it")
        if self.harness is not None and find_spec("lm_eval") is None:
            raise UserError(
                "eval=lm_eval: the lm-evaluation-harness is not installed in this environment; pip install"
                " 'redi-lab[lm-eval]'"
            )
        return self

    @model_validator(mode="after")
    def _check_members(self) -> Self:
        if self.benchmark != "suite" and self.members:
            raise UserError(
                f"eval.members: {self.name or self.benchmark} is a single benchmark, not a suite, and has no members"
            )
        if self.benchmark == "suite" and not self.members:
            raise UserError(f"eval.members: the suite {self.name} has no benchmark left")
        return self

    @model_validator(mode="after")
    def _read_prompt(self) -> Self:
        """Put the text of `prompt_file`, without its last line break, in the place of `prompt_template`."""
        if self.prompt_file is None:
            return self
        place = f"eval.prompt_file={self.prompt_file}"
        try:
            text = Path(self.prompt_file).read_text(encoding="utf-8").removesuffix("\n")
        except (OSError, ValueError) as error:
            reason = "no such file" if isinstance(error, FileNotFoundError) else in_short(error)
            raise UserError(f"{place}: {reason}; give a text file in UTF-8") from error
        if "{problem}" not in text:
            raise UserError(f"{place}: has no {{problem}} in it; write that where the problem belongs")
        self.prompt_template = text
        return self


class SequentialConfig(Settings):
    """When `evaluate` may stop before it has drawn `eval.num_samples` of each problem."""

    width: Annotated[float, Field(gt=0, le=0.5)] | None
    better_than: Text | None
    delta: Annotated[float, Field(gt=-1, lt=1)]
    confidence: Annotated[float, Field(gt=0, lt=1)]

    @model_validator(mode="after")
    def _check_question(self) -> Self:
        if self.width is not None and self.better_than is not None:
            raise UserError(f"sequential.width={self.width}: ask one question, width or better_than")
        if self.delta and self.better_than is None:
            raise UserError(f"sequential.delta={self.delta}: better than what? add sequential.better_than=FOLDER")
        return self

    @property
    def is_asked(self) -> bool:
        """Whether there is a question that may stop the evaluation."""
        return self.width is not None or self.better_than is not None


class StopConfig(Settings):
    """When `generate` draws no more traces of a problem."""

    right: Count | None
    wrong: Count | None


_Dtype = Literal["auto", "float32", "bfloat16"]
_Device = Annotated[
    Text, allowed(lambda text: re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", text), "auto, cpu, mps, cuda or cuda:N")
]


class TransformersEngineConfig(TargetSettings, extra="forbid"):
    """Generation in this process."""

    target: Literal["redi_lab.generation.transformers_engine.TransformersEngine"] = Field(alias="_target_")
    max_batch_tokens: Count
    dtype: _Dtype
    device: _Device


class VLLMEngineConfig(TargetSettings, extra="forbid"):
    """Generation in processes of vLLM."""

    target: Literal["redi_lab.generation.vllm_engine.VLLMEngine"] = Field(alias="_target_")
    python: Text | None
    data_parallel_size: Count
    tensor_parallel_size: Count
    dtype: _Dtype
    options: dict[str, Any]


ENGINES = by_target(TransformersEngineConfig, VLLMEngineConfig)
Engine = Annotated[SerializeAsAny[TargetSettings], fitting(ENGINES)]
