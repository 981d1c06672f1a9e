"""Which options of tracing are refused when a role is written."""

from __future__ import annotations

import pytest

from tele.errors import InvalidInput
from tele.model.resources import Metadata, Role, RoleOptions, RoleSpec
from tele.model.trace import Handovers, TraceKind
from tele.rbac.presets import check_role


def role(*kinds: TraceKind, syscalls: tuple[str, ...] = ()) -> Role:
    options = RoleOptions(enhanced_recording=kinds, traced_syscalls=syscalls)
    return Role(Metadata("a"), RoleSpec(options=options))


def test_system_calls_by_name() -> None:
    """They are recorded where system calls are."""
    check_role(role(TraceKind.SYSCALLS, syscalls=("ptrace", "io_uring_setup", "_sysctl")))
    check_role(role(*TraceKind))


def test_names_without_the_kind_have_no_effect() -> None:
    """That is refused, and said."""
    with pytest.raises(InvalidInput, match="traced_syscalls has no effect without"):
        check_role(role(TraceKind.COMMAND, syscalls=("ptrace",)))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (RoleOptions(handovers=Handovers.DENY), "handovers has no effect without"),
        (
            RoleOptions(count_repeated_opens=True, enhanced_recording=(TraceKind.COMMAND,)),
            "count_repeated_opens has no effect without",
        ),
    ],
)
def test_options_of_what_is_not_traced(options: RoleOptions, said: str) -> None:
    """They would have no effect: that is refused, and said."""
    with pytest.raises(InvalidInput, match=said):
        check_role(Role(Metadata("a"), RoleSpec(options=options)))


@pytest.mark.parametrize("name", ["", "PTRACE", "a b", "x" * 99, "../x", "ptrace\n"])
def test_what_is_no_name_is_refused(name: str) -> None:
    """Before any node is told it."""
    with pytest.raises(InvalidInput, match="is not the name of a system call"):
        check_role(role(TraceKind.SYSCALLS, syscalls=(name,)))
