"""Accounts with the names that directories make, through a whole cluster with OpenSSH's client."""

from __future__ import annotations

from pathlib import Path

import pytest

from private_machine import account
from three_processes import Cluster

pytestmark = pytest.mark.root


@pytest.mark.parametrize(
    ("before", "after"),
    [("AB\\", ""), ("AB+", ""), ("", "@ab.example"), ("ü", "ß"), ("", "$")],
    ids=["domain", "plus", "realm", "letters", "machine"],
)
def test_a_directorys_account_logs_in(
    cluster: Cluster, tmp_path: Path, before: str, after: str
) -> None:
    """Where the node's account database knows the name, ssh, scp and tele log in as it."""
    with account(before=before, after=after) as made:
        login, name = made.pw_name, made.pw_dir.rpartition("/")[2]
        person = cluster.person(name, "access", login=login)
        try:
            for words in (["-l", login, person.host], [f"{login}@{person.host}"]):
                done = person.ssh(*words, "id -un; pwd")
                assert done.stdout.decode().split() == [login, made.pw_dir]
            assert person.tele("ssh", f"{login}@web1", "id -un").stdout.decode() == f"{login}\n"
            source = tmp_path / "copied"
            source.write_text("content")
            person.client("scp", str(source), f"{login}@{person.host}:copied")
            assert (Path(made.pw_dir) / "copied").read_text() == "content"
        finally:
            cluster.tele("users", "rm", name)
