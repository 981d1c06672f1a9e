"""Which hosts does a request select? Label selectors ``key=value``.

Invariants:

* A value is a text, or a glob with ``*`` and ``?``; never a regular expression of a caller.
* An operator that is not known, such as ``!=``, is an error, and no part of a key.
* Several values of one key mean any of them; several keys mean all of them.
* Number and length are bounded, and so is the cost of matching one host.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from attrs import frozen

from tele.errors import InvalidInput, quoted
from tele.model.api.hosts import SELECTORS_LIMIT as SELECTORS_LIMIT
from tele.model.patterns import matches

LENGTH_LIMIT: Final = 512
#: What other languages of selectors have before a ``=``.
OPERATORS: Final = "!<>~"


@frozen
class Selector:
    """The selected labels. An empty one selects everything."""

    wanted: Mapping[str, tuple[str, ...]]

    def selects(self, labels: Mapping[str, str]) -> bool:
        """Whether a host with ``labels`` is selected."""
        return all(
            key in labels and any(matches(value, labels[key]) for value in values)
            for key, values in self.wanted.items()
        )


def read_selector(selectors: Sequence[str]) -> Selector:
    """Read selectors ``key=value``. Raises :class:`InvalidInput`."""
    if len(selectors) > SELECTORS_LIMIT:
        raise InvalidInput(f"more than {SELECTORS_LIMIT} labels to select by")
    wanted: dict[str, tuple[str, ...]] = {}
    for label in selectors:
        key, equals, value = label.partition("=")
        if not key or not equals:
            raise InvalidInput(f"{quoted(label)} is not a label: expected key=value")
        if key[-1] in OPERATORS or value[:1] in ("=", "~"):
            raise InvalidInput(
                f"{quoted(label)}: the only operator is =, as in key=value; values may have * and ?"
            )
        if len(label) > LENGTH_LIMIT:
            raise InvalidInput(f"{quoted(label)} has more than {LENGTH_LIMIT} characters")
        if "*" in key or "?" in key:
            raise InvalidInput(f"{quoted(label)}: only the value can have * and ?")
        if value.startswith("^"):
            raise InvalidInput(
                f"{quoted(label)}: regular expressions are for roles only; use * and ?"
            )
        wanted[key] = (*wanted.get(key, ()), value)
    return Selector(wanted)
