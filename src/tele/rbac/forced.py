"""What may a forced command be, and what is forwarded beside one?

Invariants:

* A forced command is all that a connection may do: ports, sockets, an agent or a display
  beside it are ways around it, so a role has to name them.
* What the node could not honour is refused, when it is set and again when it is used.
"""

from __future__ import annotations

from tele.model.access import INTERNAL_SFTP


def trouble_with(command: str) -> str | None:
    """Say why ``command`` cannot be forced; None if it can."""
    if "\0" in command:
        return "force_command has a character that no command can have"
    if command != INTERNAL_SFTP and command.split()[:1] == [INTERNAL_SFTP]:
        return (
            f"force_command: {INTERNAL_SFTP} takes no options here; write {INTERNAL_SFTP} alone,"
            " or the path of an sftp-server with its options"
        )
    return None


def may_forward(said: bool | None, forced: bool) -> bool:
    """Whether a role that says ``said`` of a kind of forwarding allows it.

    ``forced`` is whether a command is forced, by this role or by anything else.
    """
    return not forced if said is None else said
