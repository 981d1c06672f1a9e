"""Which values may an attribute have, beside those of its type?

Validators for attrs that describe themselves in JSON Schema (:meth:`schema`), so that the published
description of the API is made from what is enforced.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Final

from attrs import Attribute, field, frozen

from tele.errors import InvalidInput, quoted
from tele.model.scalars import GREATEST_INTEGER, check_integer, whole

#: Metadata of a field that JSON leaves out while it has its default: leaving it out means something
#: else than yes or no, or hosts of an older version do not know it.
OMITTED: Final[Mapping[str, bool]] = {"omitted": True}

ONE_OR_MORE: Final = "one value may be given without a list"
#: Texts; as JSON also one that is in no list.
Texts = Annotated[tuple[str, ...], ONE_OR_MORE]


class Unacceptable(InvalidInput, ValueError):
    """A value of an attribute is not acceptable; the first argument is the text without name."""

    def __init__(self, sentence: str, name: str) -> None:
        super().__init__(sentence)
        self.args = (sentence, name)

    def __str__(self) -> str:
        return f"{self.args[1]}: {self.args[0]}"


@frozen
class Between:
    """An integer from ``least`` to ``greatest``."""

    least: int
    greatest: int = GREATEST_INTEGER

    def __call__(self, _: object, attribute: Attribute[Any], value: int) -> None:
        """Raise :class:`Unacceptable` for any other value."""
        try:
            check_integer(value, self.least, self.greatest)
        except ValueError as error:
            raise Unacceptable(str(error), attribute.name) from None

    def schema(self) -> Mapping[str, Any]:
        """See the module."""
        return {"minimum": self.least, "maximum": self.greatest}


@frozen
class AtMost:
    """A text, a list or a mapping of ``limit`` characters or elements at most."""

    limit: int

    def __call__(self, _: object, attribute: Attribute[Any], value: Any) -> None:
        """Raise :class:`Unacceptable` for any other value."""
        if len(value) > self.limit:
            what = "characters" if isinstance(value, str) else "elements"
            sentence = f"{len(value)} {what} are too many: {self.limit} at most"
            raise Unacceptable(sentence, attribute.name)

    def schema(self) -> Mapping[str, Any]:
        """See the module. Each key applies to values of its own type only."""
        return {"maxLength": self.limit, "maxItems": self.limit, "maxProperties": self.limit}


@frozen
class Pattern:
    """A text that matches a regular expression as a whole."""

    expression: str
    _compiled: re.Pattern[str] = field(init=False, eq=False, repr=False)

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "_compiled", re.compile(self.expression, re.ASCII))

    def __call__(self, _: object, attribute: Attribute[Any], value: str) -> None:
        """Raise :class:`Unacceptable` for any other value."""
        if self._compiled.fullmatch(value) is None:
            sentence = f"{quoted(value)} does not match {self.expression}"
            raise Unacceptable(sentence, attribute.name)

    def schema(self) -> Mapping[str, Any]:
        """See the module."""
        return {"pattern": whole(self.expression)}


@frozen
class OneOf:
    """One of some texts."""

    values: tuple[str, ...]

    def __call__(self, _: object, attribute: Attribute[Any], value: str) -> None:
        """Raise :class:`Unacceptable` for any other value."""
        if value not in self.values:
            sentence = f"{quoted(value)} is none of {', '.join(self.values)}"
            raise Unacceptable(sentence, attribute.name)

    def schema(self) -> Mapping[str, Any]:
        """See the module."""
        return {"enum": list(self.values)}


def bounds_of(attribute: Attribute[Any]) -> Mapping[str, Any]:
    """Return the JSON Schema of the validator of ``attribute``."""
    validator = attribute.validator
    if validator is None:
        return {}
    if not isinstance(validator, Between | AtMost | Pattern | OneOf):
        raise TypeError(f"{attribute.name}: its validator cannot be described")
    return validator.schema()
