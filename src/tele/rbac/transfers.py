"""Which files may be transferred with a role, and what do several roles deny?

Invariants:

* A role that says which files may be transferred allows these and nothing else: no shell, no
  command, no forward that it does not name.
* A denial of files holds for all roles, and so no role gives a shell or a command beside it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from tele.errors import InvalidInput
from tele.model.access import INTERNAL_SFTP
from tele.model.actions import ANY_FILES, TransferRules
from tele.model.resources import Role
from tele.rbac.forwards import check_paths

#: Patterns in one list.
PATTERNS_LIMIT: Final = 256


def files_of(role: Role) -> TransferRules | None:
    """Return the files that ``role`` gives, both kinds said; None if it says nothing of them."""
    allow = role.spec.allow.file_transfer
    if allow == ANY_FILES:
        return None
    return TransferRules(upload=allow.upload or (), download=allow.download or ())


def denied_files(roles: Iterable[Role]) -> TransferRules:
    """Return the files that any of ``roles`` denies."""
    denied = [role.spec.deny.file_transfer for role in roles]
    return TransferRules(
        upload=_union(each.upload for each in denied),
        download=_union(each.download for each in denied),
    )


def _union(lists: Iterable[tuple[str, ...] | None]) -> tuple[str, ...] | None:
    return tuple(sorted({pattern for each in lists for pattern in each or ()})) or None


def check_transfers(role: Role) -> None:
    """Raise :class:`InvalidInput` for rules that mean nothing, or that nothing could keep."""
    allow, deny = role.spec.allow.file_transfer, role.spec.deny.file_transfer
    for side, rules in (("allow", allow), ("deny", deny)):
        for name, patterns in (("upload", rules.upload), ("download", rules.download)):
            try:
                if len(patterns or ()) > PATTERNS_LIMIT:
                    raise InvalidInput(f"at most {PATTERNS_LIMIT} patterns")
                if side == "deny" and patterns == ():
                    raise InvalidInput("it is empty and denies nothing")
                check_paths(patterns or ())
            except InvalidInput as error:
                raise InvalidInput(f"{side}: file_transfer: {name}: {error}") from None
    command = role.spec.options.force_command
    if allow != ANY_FILES and command not in ("", INTERNAL_SFTP):
        raise InvalidInput(
            "allow: file_transfer beside force_command: a command that is forced transfers what it"
            f" wants; force {INTERNAL_SFTP} or nothing"
        )
