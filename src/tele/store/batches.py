"""What can a store do at once?

It reads many keys with one call if it can, else one by one. How much one commit takes it says.
"""

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


def commit_limit(backend: IBackend) -> tuple[int, int] | None:
    """Return how many changes, and of how many bytes, a commit has at most; None: any number."""
    many: IBatchBackend | None = IBatchBackend(backend, None)
    found: tuple[int, int] | None = None if many is None else getattr(many, "commit_limit", None)
    return found
