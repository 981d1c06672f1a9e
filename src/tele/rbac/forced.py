"""What may a forced command be, and what is forwarded beside one?

Invariants:

* A forced command is all that a connection may do: ports, sockets, an agent or a display would get
  around it, so a role has to allow them explicitly.
* A command that the node could not run is refused, when it is set and again when it is used.
"""

from __future__ import annotations

from tele.model.access import INTERNAL_SFTP


def trouble_with(command: str) -> str | None:
    """Return why ``command`` cannot be forced, or None."""
    if "\0" in command:
        return "force_command has a character that no command can have"
    if command != INTERNAL_SFTP and command.split()[:1] == [INTERNAL_SFTP]:
        return (
            f"force_command: {INTERNAL_SFTP} takes no options here; write {INTERNAL_SFTP} alone,"
            " or the path of an sftp-server with its options"
        )
    return None


def may_forward(option: bool | None, forced: bool) -> bool:
    """Whether a role with this option for a kind of forwarding allows it; None is not set.

    ``forced`` is whether a command is forced, by this role, another one or the certificate.
    """
    return not forced if option is None else option
