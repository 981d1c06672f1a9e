"""Operations on locks."""

from __future__ import annotations

from attrs import frozen

from tele.model.api.operation import Nothing, Operation, Permitted
from tele.model.api.paging import ByName, Paged
from tele.model.resources import Lock


@frozen
class LockList:
    """Locks in force, by name."""

    items: tuple[Lock, ...]
    next: str = ""


@frozen
class PutLock:
    """Create or replace. A ``metadata.revision`` other than 0 must be the present one.

    ``force``: also if no user can administer the cluster then.
    """

    name: str
    lock: Lock
    force: bool = False


LIST_LOCKS = Operation(
    "list_locks",
    "GET",
    "/v1/locks",
    Paged,
    LockList,
    (Permitted("lock", "list"),),
    "Locks in force",
    cost=10,
)

GET_LOCK = Operation(
    "get_lock",
    "GET",
    "/v1/locks/{name}",
    ByName,
    Lock,
    (Permitted("lock", "read"),),
    "One lock",
)

PUT_LOCK = Operation(
    "put_lock",
    "PUT",
    "/v1/locks/{name}",
    PutLock,
    Lock,
    (Permitted("lock", "create"),),
    "Create or replace a lock",
)

DELETE_LOCK = Operation(
    "delete_lock",
    "DELETE",
    "/v1/locks/{name}",
    ByName,
    Nothing,
    (Permitted("lock", "delete"),),
    "Remove a lock",
)
