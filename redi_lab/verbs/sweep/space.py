"""The search space of a sweep: override paths and what they may become, as a YAML mapping.

    loss: [redi, dpo]                                            # choices; of a group, or of values
    optimizer.lr: {low: 1.0e-5, high: 1.0e-3, log: true}         # a range; `step: 0.1` makes it a grid
    loss.beta: {low: 0.1, high: 10.0, log: true, when: {loss: dpo}}

A list of mappings gives one path several ranges, each under its own `when`. `parse_space` reads and checks the form
alone, `check_space` composes the training run at every end of every range. Neither needs torch or Optuna.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeGuard, final

from redi_lab.config.overrides import quoted
from redi_lab.errors import UserError

Value = bool | int | float | str | None
_RANGE_KEYS = ("low", "high", "log", "step", "type", "choices", "when")


class Suggesting(Protocol):
    """What of an Optuna trial a space needs."""

    def suggest_categorical(self, name: str, choices: Sequence[Value]) -> Any:
        """One of the choices."""

    def suggest_float(self, name: str, low: float, high: float, *, step: float | None, log: bool) -> float:
        """A number of the range."""

    def suggest_int(self, name: str, low: int, high: int, *, step: int, log: bool) -> int:
        """A whole number of the range."""


@final
@dataclass(frozen=True)
class Parameter:
    """One dimension of the space.

    Attributes:
        path: Hydra override path, such as `loss.alpha`, or the name of a group.
        choices: What it may be; empty for a range.
        low: Lower end of the range, inclusive.
        high: Upper end of the range, inclusive.
        log: Whether the range is searched in its logarithm.
        step: Distance between the values of the range; None for a continuum.
        is_int: Whether the range holds whole numbers.
        when: Path of an earlier categorical parameter to the values under which this one exists; empty for always.
    """

    path: str
    choices: tuple[Value, ...] = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    step: float | None = None
    is_int: bool = False
    when: Mapping[str, tuple[Value, ...]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Unique in the study: the path, with the condition where there is one."""
        conditions = ", ".join(f"{path}={'|'.join(map(str, values))}" for path, values in self.when.items())
        return f"{self.path} ({conditions})" if conditions else self.path

    def applies(self, values: Mapping[str, Value]) -> bool:
        """Whether the parameter exists beside these values (by path)."""
        return all(path in values and values[path] in allowed for path, allowed in self.when.items())

    def suggest(self, trial: Suggesting) -> Value:
        """The value that a trial tries."""
        if self.choices:
            chosen: Value = trial.suggest_categorical(self.name, self.choices)
            return chosen
        if self.is_int:
            step = 1 if self.step is None else int(self.step)
            return trial.suggest_int(self.name, int(self.low), int(self.high), step=step, log=self.log)
        value = trial.suggest_float(self.name, self.low, self.high, step=self.step, log=self.log)
        return value if self.step is None else _on_step(value)

    def points(self) -> tuple[Value, ...]:
        """All its values.

        Raises:
            UserError: the range is a continuum.
        """
        if self.choices:
            return self.choices
        step = self.step or (1 if self.is_int and not self.log else None)
        if step is None:
            raise UserError(
                f"sweep.space: {self.path} is a continuous range, which sweep.sampler=grid cannot exhaust: give step"
                " or a list of values"
            )
        values = [_on_step(self.low + i * step) for i in range(math.floor((self.high - self.low) / step + 1e-9) + 1)]
        return tuple(int(v) for v in values) if self.is_int else tuple(values)

    def ends(self) -> tuple[Value, ...]:
        """The values that stand for all in a check: the choices, or both ends."""
        if self.choices:
            return self.choices
        return (int(self.low), int(self.high)) if self.is_int else (self.low, self.high)


Space = tuple[Parameter, ...]


def parse_space(space: Mapping[str, Any] | None) -> Space:
    """Read a search space.

    Args:
        space: override path to a list of choices, a range, or a list of ranges.

    Raises:
        UserError: the space is empty, or an entry cannot be read; the message names its path and the way to write it.
    """
    if not space:
        raise UserError(
            "sweep.space is empty: name what is searched, e.g. loss.alpha: [0.2, 0.5, 0.8], or +sweeps=NAME"
        )
    parameters: list[Parameter] = []
    for path, entry in space.items():
        is_several = isinstance(entry, Sequence) and not isinstance(entry, str) and any(_is_mapping(e) for e in entry)
        for one in entry if is_several else [entry]:
            parameter = _parse(str(path), one)
            _check_conditions(parameter, parameters)
            if any(parameter.name == earlier.name for earlier in parameters):
                raise UserError(f"sweep.space.{path}: several ranges need different conditions (when: {{PATH: VALUE}})")
            parameters.append(parameter)
    return tuple(parameters)


def suggest(space: Space, trial: Suggesting) -> dict[str, Value]:
    """The values that a trial tries, by path."""
    values: dict[str, Value] = {}
    for parameter in space:
        if parameter.applies(values):
            values[parameter.path] = parameter.suggest(trial)
    return values


def grid(space: Space) -> list[dict[str, Value]]:
    """Every point of a discrete space, by parameter name; conditional parameters only where they exist.

    Raises:
        UserError: a range is a continuum.
    """
    points: list[tuple[dict[str, Value], dict[str, Value]]] = [({}, {})]
    for parameter in space:
        points = [extended for point in points for extended in _extend(*point, parameter)]
    return [by_name for by_name, _ in points]


def _extend(
    by_name: dict[str, Value], by_path: dict[str, Value], parameter: Parameter
) -> list[tuple[dict[str, Value], dict[str, Value]]]:
    if not parameter.applies(by_path):
        return [(by_name, by_path)]
    return [({**by_name, parameter.name: v}, {**by_path, parameter.path: v}) for v in parameter.points()]


def as_overrides(values: Mapping[str, Value]) -> list[str]:
    """Hydra overrides that set the values: `loss=dpo optimizer.lr=0.0001`."""
    return [f"{path}={_literal(value)}" for path, value in values.items()]


def check_space(space: Space, compose: Callable[[list[str]], object]) -> None:
    """Compose the run at the ends of every range and for every choice, so that a typing error costs no training.

    Args:
        space: what is searched.
        compose: from overrides to a checked configuration.

    Raises:
        UserError: some value is not allowed; the message names the parameter.
    """
    for values in _probes(space):
        try:
            compose(as_overrides(values))
        except UserError as error:
            raise UserError(f"sweep.space at {' '.join(as_overrides(values))}: {error}") from error


def _probes(space: Space) -> Iterator[dict[str, Value]]:
    """Points at which every end of every parameter occurs at least once, the others at their lower end."""
    for parameter in space:
        for end in parameter.ends():
            yield from _around(parameter, end, space)


def _around(parameter: Parameter, end: Value, space: Space) -> Iterator[dict[str, Value]]:
    for forced in itertools.product(*parameter.when.values()):
        wanted = {**dict(zip(parameter.when, forced, strict=True)), parameter.path: end}
        values: dict[str, Value] = {}
        for other in space:
            if other.applies(values) and (other.path != parameter.path or other is parameter):
                values[other.path] = wanted.get(other.path, other.ends()[0])
        if parameter.path in values:
            yield values


def _parse(path: str, entry: Any) -> Parameter:
    place = f"sweep.space.{path}"
    if _is_mapping(entry):
        unknown = [str(key) for key in entry if key not in _RANGE_KEYS]
        if unknown:
            raise UserError(f"unknown key {place}.{unknown[0]}: a parameter has {', '.join(_RANGE_KEYS)}")
        when = _parse_conditions(place, entry.get("when", {}))
        if "choices" in entry:
            return Parameter(path, choices=_parse_choices(place, entry["choices"]), when=when)
        return _parse_range(place, path, entry, when)
    return Parameter(path, choices=_parse_choices(place, entry))


def _parse_choices(place: str, entry: Any) -> tuple[Value, ...]:
    if isinstance(entry, str) or not isinstance(entry, Sequence) or not entry:
        raise UserError(f"{place}={entry!r}: give a list of choices, or {{low: A, high: B}}")
    for value in entry:
        if not isinstance(value, Value):
            raise UserError(f"{place}: {value!r} cannot be a choice; choices are names, numbers, true, false and null")
    if len(set(entry)) < len(entry):
        raise UserError(f"{place}={list(entry)}: a choice stands there twice")
    return tuple(entry)


def _parse_range(place: str, path: str, entry: Mapping[str, Any], when: Mapping[str, tuple[Value, ...]]) -> Parameter:
    low, high, step = entry.get("low"), entry.get("high"), entry.get("step")
    if not (_is_number(low) and _is_number(high) and low < high):
        raise UserError(f"{place}: a range needs numbers low < high, got low={low}, high={high}")
    whole = all(isinstance(number, int) for number in (low, high) if number is not None)
    kind = entry.get("type", None if whole else "float")
    if kind not in ("int", "float"):
        raise UserError(
            f"{place}: low={low} and high={high} are whole numbers: say which are meant with type: int or type: float"
        )
    if kind == "int" and not whole:
        raise UserError(f"{place}: type: int needs whole numbers, got low={low}, high={high}")
    if step is not None and (not _is_number(step) or step <= 0 or (kind == "int" and not isinstance(step, int))):
        raise UserError(f"{place}.step={step}: must be a number above 0, and whole with type: int")
    log = entry.get("log", False)
    if not isinstance(log, bool) or (log and (low <= 0 or step is not None)):
        raise UserError(f"{place}.log={log}: must be true or false; true needs low above 0 and no step")
    return Parameter(path, low=low, high=high, log=log, step=step, is_int=kind == "int", when=when)


def _parse_conditions(place: str, when: Any) -> dict[str, tuple[Value, ...]]:
    if not _is_mapping(when):
        raise UserError(f"{place}.when={when!r}: write {{PATH: VALUE}} or {{PATH: [VALUE, VALUE]}}")
    return {
        str(path): tuple(values) if isinstance(values, Sequence) and not isinstance(values, str) else (values,)
        for path, values in when.items()
    }


def _check_conditions(parameter: Parameter, earlier: Sequence[Parameter]) -> None:
    for path, values in parameter.when.items():
        choices = [choice for other in earlier if other.path == path for choice in other.choices]
        if not choices:
            raise UserError(f"sweep.space.{parameter.path}.when: {path} is no parameter with choices above it")
        for value in values:
            if value not in choices:
                raise UserError(
                    f"sweep.space.{parameter.path}.when: {path} is never {value}; it is one of"
                    f" {', '.join(map(str, choices))}"
                )


def _on_step(value: float) -> float:
    """0.1 + 0.1 + 0.1 is 0.3: what a command and a condition say."""
    return round(value, 12)


def _literal(value: Value) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str) and not re.fullmatch(r"[\w./:-]+", value, re.ASCII):
        return quoted(value)
    return repr(value) if isinstance(value, float) else str(value)


def _is_mapping(value: Any) -> TypeGuard[Mapping[str, Any]]:
    return isinstance(value, Mapping)


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
