"""Which shell runs what, and what it is kept from reading before."""

from __future__ import annotations

import os
import pwd
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tele.spawner.accounts import Refused, check_files
from tele.spawner.login_environment import harmless
from tele.spawner.shells import execution, split_words


@pytest.mark.parametrize(
    ("shell", "option"),
    [
        ("/bin/bash", b"--norc"),
        ("/usr/local/bin/bash-static", b"--norc"),
        ("/opt/bash5.3", b"--norc"),
        ("/bin/rbash", b"--norc"),
        ("/bin/zsh", b"-f"),
        ("/bin/zsh5", b"-f"),
        ("/bin/rzsh", b"-f"),
        ("/bin/csh", b"-f"),
        ("/bin/bsd-csh", b"-f"),
        ("/bin/tcsh", b"-f"),
        ("/usr/bin/fish", b"--no-config"),
        ("/bin/dash", None),
        ("/bin/ksh93", None),
    ],
)
def test_a_forced_command_skips_start_up_files(shell: str, option: bytes | None) -> None:
    """Each shell that reads a file of the user with ``-c`` gets an option that prevents it
    (attack).
    """
    name = os.path.basename(shell).encode()
    options = [] if option is None else [option]
    forced = execution(shell, "forced", [b"backup x"])
    assert forced == (shell, [name, *options, b"-c", b"backup x"])
    assert execution(shell, "exec", [b"backup x"]) == (shell, [name, b"-c", b"backup x"])
    assert execution(shell, "shell", []) == (shell, [b"-" + name])


def test_a_link_to_a_shell(tmp_path: Path) -> None:
    """A shell of another name is known by what it leads to (attack); one called sh is sh."""
    (tmp_path / "zsh").touch()
    for name in ("login-shell", "sh"):
        (tmp_path / name).symlink_to(tmp_path / "zsh")
    words = execution(str(tmp_path / "login-shell"), "forced", [b"x"])[1]
    assert words == [b"login-shell", b"-f", b"-c", b"x"]
    assert execution(str(tmp_path / "sh"), "forced", [b"x"])[1] == [b"sh", b"-c", b"x"]


def test_an_unknown_shell(tmp_path: Path) -> None:
    """Where it restricts nothing, sh runs a forced command instead; a menu is asked (attack)."""
    shells = tmp_path / "shells"
    shells.write_text("/usr/bin/tmux\n/usr/bin/xonsh\n/usr/bin/git-shell\n")
    for shell in ("/usr/bin/tmux", "/usr/bin/xonsh"):
        forced = execution(shell, "forced", [b"x"], str(shells))
        assert forced == ("/bin/sh", [b"sh", b"-c", b"x"])
        assert execution(shell, "exec", [b"x"], str(shells))[0] == shell
    for shell in ("/opt/menu", "/usr/bin/git-shell"):
        name = os.path.basename(shell).encode()
        assert execution(shell, "forced", [b"x"], str(shells)) == (shell, [name, b"-c", b"x"])


def with_shell(shell: str) -> pwd.struct_passwd:
    return pwd.struct_passwd(("someone", "x", 1000, 1000, "", "/home/someone", shell))


def test_a_shell_that_restricts_gets_no_sftp(tmp_path: Path) -> None:
    """The file server asks no shell, so accounts that theirs restricts have none (attack)."""
    shells = tmp_path / "shells"
    shells.write_text("# comment\n/bin/sh\n /bin/bash \n/bin/rbash\n/usr/bin/git-shell\n")
    for shell in ("/bin/sh", "/bin/bash", ""):
        check_files(with_shell(shell), str(shells))
    for shell in ("/bin/rbash", "/usr/bin/git-shell", "/opt/menu", "/opt/bash", "bash"):
        with pytest.raises(Refused, match="no sftp"):
            check_files(with_shell(shell), str(shells))


def test_a_machine_that_lists_no_shells(tmp_path: Path) -> None:
    """Without shells(5) the usual shells are valid, and no others."""
    missing = str(tmp_path / "missing")
    check_files(with_shell("/bin/bash"), missing)
    for shell in ("/bin/rbash", "/opt/menu", "/usr/bin/git-shell"):
        with pytest.raises(Refused):
            check_files(with_shell(shell), missing)


def test_variables_of_pam_in_a_restricted_session() -> None:
    """Names that are known to change nothing that is run; every other one is left out (attack)."""
    variables = {
        name.encode(): b"x"
        for name in (
            *("LANG", "LC_TIME", "KRB5CCNAME", "XDG_RUNTIME_DIR", "XDG_SESSION_ID"),
            *("LD_PRELOAD", "LD_AUDIT", "BASH_ENV", "ENV", "PATH", "HOME", "IFS", "SHELLOPTS"),
            *("PYTHONPATH", "PERL5OPT", "GIT_SSH_COMMAND", "BASH_FUNC_ls%%", "ZDOTDIR", "LC_"),
            *("XDG_CONFIG_HOME", "XAUTHORITY", "LANG\n", "LANGUAGE", "NLSPATH", "TZ", "TERMINFO"),
        )
    }
    assert set(harmless(variables)) == {
        *(b"LANG", b"LC_TIME", b"KRB5CCNAME", b"XDG_RUNTIME_DIR", b"XDG_SESSION_ID")
    }


def words_or_error(split: Callable[[str], list[str]], command: str) -> list[str] | None:
    try:
        return split(command)
    except ValueError:
        return None


@given(st.text(st.sampled_from("ab/- \t\r\n'\"\\#$\u00e9\u00a0\0\udcff"), max_size=30))
@example("'a'\"b\"\\c d")
@example('"\\a\\"\\\\" x')
@example("'' \"\"")
@example("scp -t 'a")
@example("a\\")
def test_words_are_those_of_shlex(command: str) -> None:
    """Quotes, backslashes and spaces mean what they mean to shlex, and so do errors: a command that
    the node reads otherwise than its shell would pass its rules (attack).
    """
    assert words_or_error(split_words, command) == words_or_error(shlex.split, command)


@pytest.mark.parametrize("piece", ["a", "''", "\\a", '"\\a"', '"', "a ", "' "])
def test_the_longest_commands(piece: str) -> None:
    """Commands as long as any that is read are split like short ones."""
    command = piece * (64 * 1024 // len(piece))
    assert words_or_error(split_words, command) == words_or_error(shlex.split, command)
