"""Words of the verb `plan`, and its assumptions about devices (conf/plan.yaml)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Self

from omegaconf import OmegaConf
from pydantic import Field, model_validator

from redi_lab.config.schema.base import Count, NotNegative, Positive, PositiveShare, Settings, Text, listed, validated
from redi_lab.config.schema.words import Words
from redi_lab.errors import UserError


class DeviceConfig(Settings):
    """A kind of device."""

    name: Text
    memory_gb: Positive | None
    bf16_tflops: Positive
    fp32_tflops: Positive
    bandwidth_gb: Positive
    sustained: PositiveShare
    assumed: bool


class PlanConfig(Settings):
    """Everything that is assumed."""

    devices: dict[str, DeviceConfig]
    libraries_gb: Positive
    context_gb: Positive
    decode_share: PositiveShare
    spread: Positive


class PlanWords(Words):
    """`plan`."""

    gpu: str | None = None
    devices: Annotated[int, Field(ge=1, le=100_000)] | None = None
    nodes: Annotated[int, Field(ge=1, le=100_000)] | None = None
    price: NotNegative = 0.0
    examples: Count | None = None
    median: Count | None = None
    longest: Count | None = None

    @model_validator(mode="after")
    def _check_lengths(self) -> Self:
        given = (self.examples, self.median, self.longest)
        if any(given) and not all(given):
            raise UserError("examples, median and longest describe lengths together: give all three, or none")
        if self.median and self.longest and self.median > self.longest:
            raise UserError(f"median={self.median}: is more than longest={self.longest}")
        return self

    def as_overrides(self) -> list[str]:
        """The words that are settings of a training."""
        named = {"trainer.devices": self.devices, "trainer.num_nodes": self.nodes}
        return [f"{key}={value}" for key, value in named.items() if value is not None]

    def check_gpu(self, assumed: PlanConfig) -> None:
        """Refuse a device that nothing is known of.

        Raises:
            UserError: it is unknown.
        """
        if self.gpu is not None and self.gpu not in assumed.devices:
            raise UserError(f"gpu={self.gpu}: unknown; choose one of {listed(list(assumed.devices), self.gpu)}")


def load_assumptions(folder: Path) -> PlanConfig:
    """The content of plan.yaml in the configuration tree."""
    return validated(PlanConfig, OmegaConf.to_container(OmegaConf.load(folder / "plan.yaml")))
