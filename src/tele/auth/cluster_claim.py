"""Which cluster does a store belong to?

Invariant: a store belongs to the first cluster that claims it, for good.
"""

from __future__ import annotations

import uuid
from datetime import datetime

from attrs import frozen

from tele.auth.repository import Repository
from tele.errors import Conflict, InvalidInput
from tele.interfaces import IBackend


@frozen
class StoredCluster:
    """The cluster that a store belongs to."""

    name: str
    id: str
    created: datetime


async def claim(backend: IBackend, name: str, moment: datetime) -> bool:
    """Claim the store for the cluster ``name``; returns whether it is new.

    Raises :class:`InvalidInput` if it is another cluster's.
    """
    repository = Repository(backend, "/cluster/", StoredCluster)
    made = StoredCluster(name, str(uuid.uuid4()), moment)
    try:
        await backend.commit(repository.put("self", made, if_revision=0))
    except Conflict:
        entry = await repository.get("self")
        if entry is not None and entry.value.name != name:
            raise InvalidInput(
                f"this store holds the cluster {entry.value.name}, not {name}: set cluster_name"
                f" to {entry.value.name}, or give another data_dir"
            ) from None
        return False
    return True
