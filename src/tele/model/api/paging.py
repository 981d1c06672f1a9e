"""Requests of many operations: a page of a list, one thing by its id or its name."""

from __future__ import annotations

from typing import Final

from attrs import field, frozen

from tele.model.bounds import Between

#: How long a page of a list may be.
PAGE: Final = Between(1, 1000)


@frozen
class Paged:
    """A page of a list."""

    limit: int = field(default=200, validator=PAGE)
    after: str = ""


@frozen
class ById:
    """Names one thing by its id."""

    id: str


@frozen
class ByName:
    """Names one thing by its name."""

    name: str
