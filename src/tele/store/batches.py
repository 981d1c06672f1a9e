"""How are many keys read from any store? With one call if it can, else with one for each key."""

from __future__ import annotations

from collections.abc import Sequence

from twisted.internet.defer import Deferred, FirstError, gatherResults

from tele.interfaces import IBackend, IBatchBackend, Item


async def get_many(backend: IBackend, keys: Sequence[str]) -> Sequence[Item | None]:
    """Return for each key the item, or None."""
    many: IBatchBackend | None = IBatchBackend(backend, None)
    if many is not None:
        items: Sequence[Item | None] = await many.get_many(keys)
        return items
    answers: list[Deferred[Item | None]] = [backend.get(key) for key in keys]
    try:
        return await gatherResults(answers, consumeErrors=True)
    except FirstError as error:
        error.subFailure.raiseException()
