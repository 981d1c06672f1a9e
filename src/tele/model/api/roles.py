"""Operations on roles."""

from __future__ import annotations

from attrs import frozen

from tele.model.api.operation import Nothing, Operation, Permitted
from tele.model.api.paging import ByName, Paged
from tele.model.resources import Role


@frozen
class RoleList:
    """Roles, by name."""

    items: tuple[Role, ...]
    next: str = ""


@frozen
class PutRole:
    """Create or replace. A ``metadata.revision`` other than 0 must be the present one.

    ``force``: also if no user can administer the cluster afterwards.
    """

    name: str
    role: Role
    force: bool = False


LIST_ROLES = Operation(
    "list_roles",
    "GET",
    "/v1/roles",
    Paged,
    RoleList,
    (Permitted("role", "list"),),
    "Roles",
    cost=10,
)

GET_ROLE = Operation(
    "get_role",
    "GET",
    "/v1/roles/{name}",
    ByName,
    Role,
    (Permitted("role", "read"),),
    "One role",
)

PUT_ROLE = Operation(
    "put_role",
    "PUT",
    "/v1/roles/{name}",
    PutRole,
    Role,
    (Permitted("role", "update"),),
    "Create or replace a role",
)

DELETE_ROLE = Operation(
    "delete_role",
    "DELETE",
    "/v1/roles/{name}",
    ByName,
    Nothing,
    (Permitted("role", "delete"),),
    "Remove a role",
    cost=20,
)
