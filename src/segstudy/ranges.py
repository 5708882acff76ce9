"""Types of settings that include their range, and the one check of values against them.

A constructor's annotation says which values are allowed: `dropout: Fraction`. The config's check reads it before
anything is opened; `checked` applies it to calls from Python.
"""

import contextlib
import functools
import inspect
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePath
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError
from pydantic.fields import FieldInfo

from segstudy.errors import ConfigError, did_you_mean


def rule(holds: Callable[[Any], Any], message: str) -> AfterValidator:
    """A rule for values beside their type and range. message: what a value must be, if it does not hold."""

    def check(value: Any) -> Any:
        if not holds(value):
            raise ValueError(message)
        return value

    return AfterValidator(check)


INSIDE = "a name inside the folder: not empty, without .. or a / in front"


def _is_inside(path: str) -> bool:
    parts = PurePath(path).parts
    return bool(path.strip() and parts) and path[0] != "/" and ".." not in parts and path.isprintable()


INCREASING = rule(lambda values: values[0] <= values[1], "must be [low,high] with low ≤ high")
RISING = rule(lambda values: values[0] < values[1], "must be [low,high] with low < high")
NOT_ALL_ZERO = rule(
    lambda values: any(values.values() if isinstance(values, Mapping) else values), "must not be 0 everywhere"
)
TWO, SOME = Field(min_length=2, max_length=2), Field(min_length=1)

Whole = Annotated[int, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
CountOrAlways = Annotated[int, Field(ge=-1)]
Images = Annotated[int, Field(ge=1, le=1_000_000)]
Iterations = Annotated[int, Field(ge=0, le=1_000)]
Radius = Annotated[int, Field(ge=1, le=100)]
Workers = Annotated[int, Field(ge=0, le=1_024)]
ClassNumber = Annotated[int, Field(ge=0, le=254)]
Label = Annotated[int, Field(ge=0, le=255)]

NotNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Probability = Annotated[float, Field(ge=0, le=1)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
PositiveShare = Annotated[float, Field(gt=0, le=1)]
OpenShare = Annotated[float, Field(gt=0, lt=1)]
Angle = Annotated[float, Field(ge=0, le=180)]
Hue = Annotated[float, Field(ge=0, le=0.5)]
BetaShape = Annotated[float, Field(ge=0.01, le=1_000)]
Deviation = Annotated[float, Field(ge=0.01, le=10_000)]
Factor = Annotated[float, Field(gt=0, le=16)]

Factors = Annotated[Sequence[Factor], SOME]
Weights = Annotated[Sequence[NotNegative], SOME, NOT_ALL_ZERO]
Ratios = Annotated[Sequence[Annotated[float, Field(ge=0.01, le=100)]], TWO, INCREASING]
Shares = Annotated[Sequence[PositiveShare], TWO, INCREASING]
Range = Annotated[Sequence[float], TWO, RISING]

Side = Annotated[int, Field(ge=1, le=32_768)]
Size = Side | Annotated[Sequence[Side], TWO]
Channels = Count | Annotated[Sequence[Whole], SOME]

Width = Annotated[int, Field(ge=1, le=65_536)]
Widths = Annotated[Sequence[Width], Field(min_length=1, max_length=8)]
EncoderWidths = Annotated[Sequence[Width], Field(min_length=2, max_length=8)]
Depth = Annotated[int, Field(ge=1, le=5)]
Layers = Annotated[int, Field(ge=1, le=100)]
Rates = Annotated[Sequence[Annotated[int, Field(ge=1, le=1_024)]], SOME]
ODD = rule(lambda number: number % 2, "must be odd")
Kernel = Annotated[int, Field(ge=1, le=99, description="an odd number from 1 to 99"), ODD]

Text = Annotated[str, Field(min_length=1, description="a text that is not empty")]
Name = Annotated[str, Field(description=INSIDE), rule(_is_inside, f"must be {INSIDE}")]
"""A path inside a folder."""
Metric = Annotated[str, Field(pattern=r"^(train|val)/[\w/]+$", description="a logged metric such as val/miou")]

STRICT = ConfigDict(strict=True, allow_inf_nan=False, arbitrary_types_allowed=True)
WORDS = {int: "a whole number", float: "a number", str: "a text", NoneType: "null"}
PLURALS = [("a whole number", "whole numbers"), ("a number", "numbers"), ("a text", "texts")]

T = TypeVar("T", bound=Callable[..., Any])


class Allowed:
    """The values that an annotation allows. Anything, if it is none that pydantic can check."""

    def __init__(self, annotation: Any):
        self.annotation = annotation
        self.adapter: TypeAdapter | None = None
        with contextlib.suppress(PydanticUserError, TypeError):  # a text, or a type with a config of its own
            self.adapter = None if isinstance(annotation, str) else TypeAdapter(annotation, config=STRICT)

    def mistake(self, value: Any) -> str | None:
        """What the value must be, if it is not allowed."""
        if self.adapter is None:
            return None
        plain = _plain(value)
        if _largest(plain) >= 2**63:
            return "must be below 2^63"
        try:
            if not (isinstance(plain, list) and self._takes(tuple(plain))):  # YAML has no tuples
                self.adapter.validate_python(plain)
        except ValidationError as error:
            own = [str(each["ctx"]["error"]) for each in error.errors() if each["type"] == "value_error"]
            close = did_you_mean(value, list(_words(self.annotation))) if isinstance(value, str) else ""
            return own[0] if own else f"must be {described(self.annotation)}{close}"
        return None

    def _takes(self, value: Any) -> bool:
        with contextlib.suppress(ValidationError):
            self.adapter.validate_python(value)  # type: ignore[union-attr]
            return True
        return False


def _plain(value: Any) -> Any:
    """A value as YAML holds it: NumPy's numbers, tensors, tuples, paths and OmegaConf's containers are converted."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [_plain(each) for each in value]
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    return os.fspath(value) if isinstance(value, PurePath) else value


def _largest(value: Any) -> float:
    """The largest amount of a number in a value."""
    if isinstance(value, list | dict):
        return max(map(_largest, value.values() if isinstance(value, dict) else value), default=0)
    return abs(value) if isinstance(value, int | float) and math.isfinite(value) else 0


def described(annotation: Any) -> str:
    """The allowed values in words: a whole number, 1 or more, or null."""
    parts = list(dict.fromkeys(_parts(annotation)))
    parts = [_shorter(part, parts) for part in parts]
    if len(parts) > 2:
        parts.sort(key=lambda part: "," in part)  # such as -1, null, or a whole number, 1 or more
    comma = "," if any("," in part for part in parts) else ""
    return f"{', '.join(parts[:-1])}{comma} or {parts[-1]}" if len(parts) > 1 else parts[0]


def _parts(annotation: Any) -> list[str]:
    """The alternatives of an annotation in words."""
    kind, rules = _unpacked(annotation)
    origin, inner = get_origin(kind), get_args(kind)
    if rules.get("description"):
        return [rules["description"]]
    if origin in (Union, UnionType):
        return [part for each in inner for part in _parts(each)]
    if origin is Literal or kind is bool:
        return list(map(str, inner)) or ["true", "false"]
    if inspect.isclass(origin) and issubclass(origin, Mapping):
        return [f"{{{described(inner[0])}: {described(inner[1])}}}"]
    if inspect.isclass(origin) and issubclass(origin, Sequence):
        return [_list_of(described(inner[0]), rules.get("min_length"), rules.get("max_length"))]
    return [WORDS.get(kind, getattr(kind, "__name__", str(kind))) + _limits(rules)]


def _list_of(items: str, least: int | None, most: int | None) -> str:
    for one, many in PLURALS:
        items = items.replace(one, many)
    if least is not None and least == most:
        return f"a list of {least} {items}"
    return f"a list of {least} to {most} {items}" if most else f"a {'non-empty ' * bool(least)}list of {items}"


def _shorter(part: str, parts: Sequence[str]) -> str:
    """A list of what is allowed alone too, in fewer words."""
    for other in parts:
        if part.startswith("a list of ") and part != other and part.endswith(many := _list_of(other, None, None)[10:]):
            count = part[10 : -len(many)]
            return f"a list of {count}{'of ' * bool(count)}them"
    return part


def _limits(rules: Mapping[str, Any]) -> str:
    """The range of a number in words."""
    low = rules.get("ge", rules.get("gt"))
    high = rules.get("le", rules.get("lt"))
    if "ge" in rules and high is not None:
        return f" from {low:,} to {'below ' * ('lt' in rules)}{high:,}"
    above = "" if low is None else f", {low:,} or more" if "ge" in rules else f" above {low:,}"
    return above + ("" if high is None else f", at most {high:,}" if "le" in rules else f" and below {high:,}")


def _unpacked(annotation: Any) -> tuple[Any, dict[str, Any]]:
    """The type of an annotation, and its range by the names of pydantic's Field."""
    if get_origin(annotation) is not Annotated:
        return annotation, {}
    kind, *metadata = get_args(annotation)
    rules: dict[str, Any] = {}
    for each in metadata:
        if isinstance(each, FieldInfo):
            rules["description"] = each.description
            for rule in each.metadata:
                rules |= {name: getattr(rule, name) for name in dir(rule) if not name.startswith("_")}
    return kind, rules


def _words(annotation: Any) -> Sequence[str]:
    """The words that an annotation allows."""
    kind, _ = _unpacked(annotation)
    if get_origin(kind) is Literal:
        return [each for each in get_args(kind) if isinstance(each, str)]
    return [word for each in get_args(kind) for word in _words(each)] if get_origin(kind) in (Union, UnionType) else []


def signature_of(function: Callable[..., Any]) -> inspect.Signature:
    """The signature, with annotations that are texts replaced by what they name."""
    try:
        return inspect.signature(function, eval_str=True)
    except Exception:  # a name that is imported for type checkers only
        return inspect.signature(function)


def allowed_for(parameter: inspect.Parameter) -> Allowed:
    """The values that a parameter's annotation allows, and null if that is its default."""
    annotation = parameter.annotation
    if annotation is parameter.empty:
        annotation = bool if isinstance(parameter.default, bool) else Any
    return _allowed(annotation, parameter.default is None)


@functools.cache
def _allowed(annotation: Any, or_none: bool) -> Allowed:
    return Allowed(annotation | None if or_none and not isinstance(annotation, str) else annotation)


def mistaken(parameters: Mapping[str, inspect.Parameter], given: Mapping[str, Any]) -> dict[str, str]:
    """What each argument must be whose given value is not allowed."""
    named = {k: p for k, p in parameters.items() if k in given and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
    musts = {name: allowed_for(parameter).mistake(given[name]) for name, parameter in named.items()}
    return {name: must for name, must in musts.items() if must}


def shown(value: Any) -> str:
    """A value as it is written on a command line, at most 100 characters."""
    text = _written(value)
    return text if len(text) <= 100 else text[:99] + "…"


def _written(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    value = _plain(value)
    if isinstance(value, list):
        return f"[{','.join(map(_written, value))}]"
    if isinstance(value, float) and not math.isfinite(value):
        return ".nan" if math.isnan(value) else str(value)
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}: {_written(each)}" for key, each in value.items()) + "}"
    return repr(value) if isinstance(value, str) and not (value and value.isprintable()) else str(value)


def checked(thing: T) -> T:
    """Decorator of a class or function: calls with values outside its annotations raise ConfigError."""
    if inspect.isclass(thing):
        thing.__init__ = checked(thing.__init__)  # type: ignore[misc, method-assign]
        return thing
    signature = signature_of(thing)

    @functools.wraps(thing)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            given = signature.bind(*args, **kwargs).arguments
        except TypeError:
            return thing(*args, **kwargs)  # raises its own
        owner = type(args[0]).__name__ if thing.__name__ == "__init__" else thing.__name__
        if mistakes := mistaken(signature.parameters, given):
            raise ConfigError("\n".join(f"{owner}({k}={shown(given[k])}): {must}" for k, must in mistakes.items()))
        return thing(*args, **kwargs)

    return call  # type: ignore[return-value]
