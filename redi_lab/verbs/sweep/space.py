"""The search space of a sweep: override paths and the values that they may take, as a YAML mapping.

    loss: [redi, dpo]                                            # choices; of a group, or of values
    optimizer.lr: {low: 1.0e-5, high: 1.0e-3, log: true}         # a range; `step: 0.1` makes it a grid
    loss.beta: {low: 0.1, high: 10.0, log: true, when: {loss: dpo}}

A list of mappings gives one path several ranges, each under its own `when`. `times: PATH` multiplies what is drawn from
a range by the value of an earlier one: SimPO's gamma is searched as a share of its beta. `parse_space` reads the form
alone, `check_space` composes the training run at every end of every range.
"""

from __future__ import annotations

import itertools
import math
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeGuard, final

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import BaseTrial

from redi_lab.config.overrides import quoted
from redi_lab.errors import UserError

Value = bool | int | float | str | None
_KEYS = ("low", "high", "log", "step", "type", "choices", "when", "times")


@final
@dataclass(frozen=True)
class Parameter:
    """One dimension of the space.

    Attributes:
        path: Hydra override path, such as `loss.alpha`, or the name of a group.
        distribution: The values that it may take.
        when: Path of an earlier categorical parameter to the values under which this one exists; empty for always.
        times: Path of an earlier range, whose value multiplies this one's; None: nothing does.
    """

    path: str
    distribution: CategoricalDistribution | FloatDistribution | IntDistribution
    when: Mapping[str, tuple[Value, ...]] = field(default_factory=dict)
    times: str | None = None

    @property
    def name(self) -> str:
        """Unique in the study: the path, with the condition where there is one."""
        conditions = ", ".join(f"{path}={'|'.join(map(str, values))}" for path, values in self.when.items())
        return f"{self.path} ({conditions})" if conditions else self.path

    def applies(self, values: Mapping[str, Value]) -> bool:
        """Whether the parameter exists beside these values (by path)."""
        return all(path in values and values[path] in allowed for path, allowed in self.when.items())

    def suggest(self, trial: BaseTrial) -> Value:
        """The value that a trial tries."""
        of = self.distribution
        if isinstance(of, CategoricalDistribution):
            choice: Value = trial.suggest_categorical(self.name, of.choices)
            return choice
        if isinstance(of, IntDistribution):
            return int(trial.suggest_int(self.name, of.low, of.high, step=of.step, log=of.log))
        number = float(trial.suggest_float(self.name, of.low, of.high, step=of.step, log=of.log))
        return number if of.step is None else _decimal(number)

    def points(self) -> tuple[Value, ...] | None:
        """All its values; None for a continuous range."""
        of = self.distribution
        if isinstance(of, CategoricalDistribution):
            return tuple(of.choices)
        if of.step is None or of.log:
            return None
        values = (_decimal(of.low + i * of.step) for i in range(math.floor((of.high - of.low) / of.step + 1e-9) + 1))
        return tuple(int(value) if isinstance(of, IntDistribution) else value for value in values)

    def at(self, share: float) -> Value:
        """The value below which a share in [0, 1) of the range lies, or as many of the points."""
        of, points = self.distribution, self.points()
        if points is not None:
            return points[int(share * len(points))]
        assert not isinstance(of, CategoricalDistribution)
        low, high = (math.log(of.low), math.log(of.high)) if of.log else (of.low, of.high)
        value: float = low + share * (high - low)
        value = min(max(math.exp(value) if of.log else value, of.low), of.high)
        return round(value) if isinstance(of, IntDistribution) else value

    def ends(self) -> tuple[Value, ...]:
        """The values that stand for all in a check: the choices, or both ends."""
        of = self.distribution
        return of.choices if isinstance(of, CategoricalDistribution) else (of.low, of.high)


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
        is_several = isinstance(entry, Sequence) and any(isinstance(part, Mapping) for part in entry)
        for one in entry if is_several else [entry]:
            parameter = _parse(str(path), one)
            _check_conditions(parameter, parameters)
            if any(parameter.name == earlier.name for earlier in parameters):
                raise UserError(f"sweep.space.{path}: several ranges need different conditions (when: {{PATH: VALUE}})")
            parameters.append(parameter)
    return tuple(parameters)


def suggest(space: Space, trial: BaseTrial) -> dict[str, Value]:
    """The values that a trial tries, by path."""
    return _choose(space, lambda parameter: parameter.suggest(trial))


def grid(space: Space) -> list[dict[str, Value]]:
    """Every point of a discrete space, by parameter name; conditional parameters only where they exist.

    Raises:
        UserError: a range is continuous.
    """
    points: list[tuple[dict[str, Value], dict[str, Value]]] = [({}, {})]  # each by name, and by path
    for parameter in space:
        values = parameter.points()
        if values is None:
            raise UserError(
                f"sweep.space: {parameter.path} is a continuous range, which sweep.sampler=grid cannot exhaust: give"
                " step or a list of values"
            )
        extended: list[tuple[dict[str, Value], dict[str, Value]]] = []
        for by_name, by_path in points:
            if parameter.applies(by_path):
                extended += [({**by_name, parameter.name: v}, {**by_path, parameter.path: v}) for v in values]
            else:
                extended.append((by_name, by_path))
        points = extended
    return [by_name for by_name, _ in points]


def sobol(space: Space, count: int, seed: int) -> list[dict[str, Value]]:
    """The first points of a scrambled Sobol sequence, by parameter name: a larger count begins with the same ones.

    Source: Owen 1998, "Scrambling Sobol' and Niederreiter-Xing Points".
    """
    from scipy.stats import qmc  # a second to import

    log_count = math.ceil(math.log2(max(count, 1)))  # scipy warns of lengths that are no power of two
    points = []
    for shares in qmc.Sobol(len(space), rng=seed).random_base2(log_count)[:count]:
        by_name: dict[str, Value] = {}
        by_path: dict[str, Value] = {}
        for parameter, share in zip(space, shares, strict=True):
            if parameter.applies(by_path):
                by_name[parameter.name] = by_path[parameter.path] = parameter.at(float(share))
        points.append(by_name)
    return points


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
    for overrides in dict.fromkeys(tuple(as_overrides(values)) for values in _corners(space)):
        try:
            compose(list(overrides))
        except UserError as error:
            raise UserError(f"sweep.space at {' '.join(overrides)}: {error}") from error


def _corners(space: Space) -> Iterator[dict[str, Value]]:
    """Points at which every end of every parameter occurs at least once, the others at their lower end."""
    for parameter in space:
        for end, *conditions in itertools.product(parameter.ends(), *parameter.when.values()):
            wanted = {**dict(zip(parameter.when, conditions, strict=True)), parameter.path: end}
            yield _choose(space, lambda other, wanted=wanted: wanted.get(other.path, other.ends()[0]))  # type: ignore[misc]


def _choose(space: Space, choice: Callable[[Parameter], Value]) -> dict[str, Value]:
    values: dict[str, Value] = {}
    for parameter in space:
        if parameter.applies(values):
            value, factor = choice(parameter), values.get(parameter.times or "")
            if isinstance(value, float) and isinstance(factor, int | float):
                value *= factor
            values[parameter.path] = value
    return values


def _parse(path: str, entry: Any) -> Parameter:
    place = f"sweep.space.{path}"
    if not isinstance(entry, Mapping):
        return Parameter(path, _choices(place, entry))
    unknown = [str(key) for key in entry if key not in _KEYS]
    if unknown:
        raise UserError(f"unknown key {place}.{unknown[0]}: a parameter has {', '.join(_KEYS)}")
    when = entry.get("when", {})
    if not isinstance(when, Mapping):
        raise UserError(f"{place}.when={when!r}: write {{PATH: VALUE}} or {{PATH: [VALUE, VALUE]}}")
    values = _choices(place, entry["choices"]) if "choices" in entry else _range(place, entry)
    conditions = {str(key): tuple(v) if isinstance(v, list) else (v,) for key, v in when.items()}
    return Parameter(path, values, conditions, entry.get("times"))


def _choices(place: str, entry: Any) -> CategoricalDistribution:
    if isinstance(entry, str) or not isinstance(entry, Sequence) or not entry:
        raise UserError(f"{place}={entry!r}: give a list of choices, or {{low: A, high: B}}")
    for value in entry:
        if not isinstance(value, Value):
            raise UserError(f"{place}: {value!r} cannot be a choice; choices are names, numbers, true, false and null")
    if len(set(entry)) < len(entry):
        raise UserError(f"{place}={list(entry)}: a choice is repeated")
    return CategoricalDistribution(tuple(entry))


def _range(place: str, entry: Mapping[str, Any]) -> FloatDistribution | IntDistribution:
    low, high, step, log = entry.get("low"), entry.get("high"), entry.get("step"), entry.get("log", False)
    if not (_is_number(low) and _is_number(high) and low < high):
        raise UserError(f"{place}: a range needs numbers low < high, got low={low}, high={high}")
    is_whole = isinstance(low, int) and isinstance(high, int) and isinstance(step, int | None)
    kind = entry.get("type", None if is_whole else "float")
    if kind not in ("int", "float") or (kind == "int" and not is_whole):
        raise UserError(
            f"{place}: low={low}, high={high}, type={kind}: say which are meant with type: int (whole numbers) or float"
        )
    if not isinstance(log, bool) or not (step is None or _is_number(step)):
        raise UserError(f"{place}: log={log}, step={step}: log is true or false, step is a number above 0")
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*not divisible by")  # the last step within the range is its end
            if kind == "int":
                return IntDistribution(int(low), int(high), log, 1 if step is None else int(step))
            return FloatDistribution(low, high, log, step)
    except (ValueError, ArithmeticError) as error:
        raise UserError(f"{place}: {error}") from error


def _check_conditions(parameter: Parameter, earlier: Sequence[Parameter]) -> None:
    factors = [other for other in earlier if other.path == parameter.times and other.when in ({}, parameter.when)]
    is_float = isinstance(parameter.distribution, FloatDistribution)
    is_range = factors and not isinstance(factors[0].distribution, CategoricalDistribution)
    if parameter.times is not None and not (is_float and is_range):
        raise UserError(
            f"sweep.space.{parameter.path}.times={parameter.times}: must name a range above this one, which is a range"
            " of type float"
        )
    place = f"sweep.space.{parameter.path}.when"
    for path, values in parameter.when.items():
        of = [other.distribution for other in earlier if other.path == path]
        choices = [choice for one in of if isinstance(one, CategoricalDistribution) for choice in one.choices]
        if not choices:
            raise UserError(f"{place}: {path} is not a parameter with choices above it")
        if wrong := [value for value in values if value not in choices]:
            raise UserError(f"{place}: {path} is never {wrong[0]}; it is one of {', '.join(map(str, choices))}")


def _decimal(value: float) -> float:
    """0.1 + 0.1 + 0.1 is 0.3, as commands and conditions write it."""
    return round(value, 12)


def _literal(value: Value) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str) and not re.fullmatch(r"[\w./:-]+", value, re.ASCII):
        return quoted(value)
    return repr(value) if isinstance(value, float) else str(value)


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
