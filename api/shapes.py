"""A shape: a TypedDict as the rule for a JSON object, and errors that say where it is broken and what is allowed."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import islice
from typing import Annotated, Any, Generic, TypeVar, get_args, get_type_hints

from pydantic import AfterValidator, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError
from typing_extensions import is_typeddict

from api.errors import BrokenRules, dotted
from api.schemas import FieldError

T = TypeVar("T")

ERRORS_SHOWN = 20
OVERSIZED = frozenset({"too_long", "string_too_long"})
WORDS = {
    "missing": "is required",
    "dict_type": "must be a JSON object",
    "string_type": "must be a string",
    "int_type": "must be an integer",
    "float_type": "must be a number",
    "bool_type": "must be true or false",
    "list_type": "must be an array",
}

SUBJECT = re.compile(r"^(Input|String|List|Dictionary) should ")


class Shape(Generic[T]):
    """Checks JSON objects against the TypedDict ``kind``; ``at`` is where they stand in the request's body."""

    def __init__(self, kind: type[T], at: str = "", check: Callable[[T], T] | None = None) -> None:
        self.kind = kind
        self._at = [at] if at else []
        self._fields = frozenset(known_fields(kind, ()))
        checked: Any = Annotated[kind, AfterValidator(check)] if check else kind
        self._validate = TypeAdapter(checked).validator.validate_python

    def errors(self, value: Any) -> tuple[T | None, list[ErrorDetails]]:
        """The object with only what was given in it, or what is wrong with it."""
        if self._fields and isinstance(value, dict) and len(value) > len(self._fields):
            # Some are unknown. A body may hold 100,000 such, and an error for each takes a second.
            return None, [_unknown(name) for name in islice(value.keys() - self._fields, ERRORS_SHOWN)]
        try:
            return self._validate(value), []
        except ValidationError as error:
            return None, error.errors(include_url=False, include_context=False, include_input=False)

    def parse(self, value: Any) -> T:
        """The object with only what was given in it. Raises BrokenRules."""
        found, wrong = self.errors(value)
        if found is None:
            raise BrokenRules(self.told(wrong), too_large=wrong[0]["type"] in OVERSIZED)
        return found

    def told(self, wrong: list[ErrorDetails]) -> list[FieldError]:
        """The first of the errors, as clients see them."""
        return [
            {"field": dotted([*self._at, *error["loc"]]), "message": self._message(error)}
            for error in wrong[:ERRORS_SHOWN]
        ]

    def _message(self, error: ErrorDetails) -> str:
        kind = error["type"]
        if kind == "extra_forbidden":
            return f"is not a known field; known are: {', '.join(known_fields(self.kind, error['loc'][:-1]))}"
        return WORDS.get(kind) or SUBJECT.sub("must ", error["msg"].replace(" after validation", ""))


def _unknown(name: str) -> ErrorDetails:
    return {"type": "extra_forbidden", "loc": (name,), "msg": "", "input": None}


def known_fields(kind: Any, path: tuple[int | str, ...]) -> list[str]:
    """The fields that the TypedDict at ``path`` inside ``kind`` has."""
    for part in path:
        kind = get_args(kind)[0] if isinstance(part, int) else get_type_hints(kind)[part]
    return list(get_type_hints(kind)) if is_typeddict(kind) else []


def exactly_one(*names: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """A check that an object has one, and only one, of these fields."""
    wanted = " or ".join(repr(name) for name in names)

    def check(value: dict[str, Any]) -> dict[str, Any]:
        if sum(name in value for name in names) != 1:
            raise PydanticCustomError("exactly_one", "must have exactly one of the fields {wanted}", {"wanted": wanted})
        return value

    return check
