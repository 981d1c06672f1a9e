"""Which texts does a text of a role with a template stand for? ``dev-{{internal.team}}``.

Invariants:

* One template in a text; the text stands for one text for each of the template's values.
* A template reads the user's traits, and nothing else.
* A value is never read again: neither as a template, nor as a pattern.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Final

from attrs import frozen

from tele.errors import InvalidInput, quoted
from tele.rbac.predicates import Type, Vocabulary, value

#: ``internal`` and ``external`` are both the user's traits: a user has them from ``tele users``, or
#: from an identity provider.
TRAITS: Final[Vocabulary] = (("internal", Type.TEXTS_MAP), ("external", Type.TEXTS_MAP))
#: How many values of a template count, and characters of one.
VALUES_LIMIT: Final = 1000
LENGTH_LIMIT: Final = 256

Traits = Mapping[str, tuple[str, ...]]


@frozen
class Template:
    """A text with a template: what is before it, in it, and after it."""

    before: str
    inside: str
    after: str

    def expand(self, traits: Traits) -> tuple[str, ...]:
        """Return the texts that it stands for with ``traits``, each once."""
        if not traits:
            return ()
        found = self._values(traits)[:VALUES_LIMIT]
        used = [each for each in found if each and len(each) <= LENGTH_LIMIT]
        return tuple(dict.fromkeys(f"{self.before}{each}{self.after}" for each in used))

    def stands_for(self, text: str, traits: Traits) -> bool:
        """Whether ``text`` is one of the texts that it stands for, however many there are: a denial
        has no limit.
        """
        return any(
            each and text == f"{self.before}{each}{self.after}" for each in self._values(traits)
        )

    def _values(self, traits: Traits) -> tuple[str, ...]:
        return value(self.inside, TRAITS)({"internal": traits, "external": traits})


@lru_cache(maxsize=2048)
def template(text: str) -> Template | None:
    """Return the template in ``text``, or None if there is none.

    Raises :class:`InvalidInput` for what is malformed, and for a second one.
    """
    if "{{" not in text and "}}" not in text:
        return None
    before, opened, rest = text.partition("{{")
    inside, closed, after = rest.partition("}}")
    if not opened or not closed or "}}" in before or "{{" in inside:
        raise InvalidInput(f"{quoted(text)}: a template is written {{{{internal.NAME}}}}")
    if "{{" in after or "}}" in after:
        raise InvalidInput(f"{quoted(text)} has more than one template")
    value(inside.strip(), TRAITS)
    return Template(before, inside.strip(), after)


def expanded(text: str, traits: Traits) -> tuple[str, ...]:
    """Return what ``text`` stands for: itself without a template; nothing if it is malformed."""
    try:
        found = template(text)
    except InvalidInput:
        return ()
    return (text,) if found is None else found.expand(traits)
