"""``tele access``: why a user may log in, and whether roles do what is expected."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tele_command import Cluster, Tele

ROLES = """
kind: role
version: v1
metadata: {name: dev}
spec:
  allow: {logins: ["{{internal.logins}}"], node_labels: {env: [test]}}
  options: {port_forwarding: false}
---
kind: role
version: v1
metadata: {name: backup}
spec:
  allow: {logins: [root], node_labels: {"*": ["*"]}}
  options: {force_command: /usr/local/bin/backup}
---
kind: role
version: v1
metadata: {name: careful}
spec:
  deny: {node_labels: {frozen: ["*"]}}
---
kind: role
version: v1
metadata: {name: files}
spec:
  allow:
    logins: [www]
    node_labels: {"*": ["*"]}
    forward: {local: ["d*:5432"], remote: ["localhost:*"], streamlocal: [/run/**]}
    file_transfer: {upload: [~/in/*]}
  deny: {file_transfer: {upload: ["/**/*.key"]}}
---
kind: user
version: v1
metadata: {name: bob}
spec: {roles: [dev, backup, careful], traits: {logins: [bob]}}
"""

GOOD = """
kind: access_tests
version: v1
tests:
  - {user: bob, login: bob, labels: {env: test}, expect: allow,
     gives: [shell, terminal], withholds: [port_forwarding]}
  - {user: bob, login: root, labels: {env: prod}, expect: allow, gives: [command],
     withholds: [shell]}
  - {user: bob, login: root, labels: {frozen: now}, expect: deny, reason: denied}
  - {roles: [dev], traits: {logins: [www]}, login: www, labels: {env: test}, expect: allow}
  - {roles: [dev], login: root, labels: {env: prod}, expect: deny, reason: node}
  - {roles: [files], login: www, labels: {}, expect: allow, withholds: [shell, terminal],
     may: {local: ["db:5432"], remote: ["localhost:80"], streamlocal: [/run/x], upload: [~/in/x]},
     may_not: {local: ["db:22", "10.0.0.1:5432"], remote: ["*:80"], streamlocal: [/etc/x],
               upload: [~/in/x.key, /etc/passwd], download: [~/in/x]}}
  - {roles: [dev], traits: {logins: [www]}, login: www, labels: {env: test}, expect: allow,
     may: {upload: [/etc/x], download: [/etc/x]}, may_not: {local: ["db:1"]}}
"""


def written(tele: Tele, name: str, text: str) -> Path:
    path = tele.folder / name
    path.write_text(text)
    return path


def test_expectations_that_are_met(tele: Tele) -> None:
    """Without a cluster, by the files alone."""
    roles, tests = written(tele, "roles.yaml", ROLES), written(tele, "tests.yaml", GOOD)
    done = tele.run("access", "test", "--offline", "-f", roles, "-f", tests)
    assert (done.stdout, done.stderr.strip()) == ("", "7 expectations, 0 not met")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("{user: bob, login: root, labels: {env: prod}, expect: deny}", "allowed by backup"),
        ("{user: bob, login: www, labels: {env: prod}, expect: allow}", "denied (login)"),
        (
            "{user: bob, login: bob, labels: {env: prod}, expect: deny, reason: locked}",
            "expected locked, but denied (login)",
        ),
        (
            "{user: bob, login: root, labels: {}, expect: allow, gives: [shell]}",
            "expected shell, which backup does not give",
        ),
        (
            "{user: bob, login: bob, labels: {env: test}, expect: allow, withholds: [shell]}",
            "not expected: shell by dev",
        ),
        (
            "{user: bob, login: root, labels: {}, expect: allow, may: {local: ['db:22']}}",
            "expected local db:22, which backup does not allow",
        ),
    ],
)
def test_an_expectation_that_is_not_met(tele: Tele, line: str, expected: str) -> None:
    """It is printed with its line and what was decided; the status says so, too."""
    text = f"kind: access_tests\nversion: v1\ntests:\n- {line}\n"
    roles, tests = written(tele, "roles.yaml", ROLES), written(tele, "tests.yaml", text)
    words = ("access", "test", "--offline", "-f", roles, "-f", tests)
    done = tele.run(*words, status=1)
    assert done.stdout.startswith(f"{tests}:4: bob, ")
    assert expected in done.stdout
    (row,) = json.loads(tele.run(*words, "--format", "json", status=1).stdout)
    assert expected in row["problem"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("kind: lock\n", "expected a role, a user or access_tests"),
        (ROLES, "no document of kind access_tests"),
        ("kind: access_tests\nversion: v1\ntests: 1\n", "tests: expected a list"),
        (GOOD.replace("expect: deny,", "expect: no,"), ":9: expect: 'no' is none of allow, deny"),
        (GOOD.replace("[command]", "[comand]"), ":7: gives[0]: 'comand' is none of shell, command"),
        (GOOD.replace("user: bob, ", "", 1), "give a user, or roles"),
        (GOOD.replace("user: bob", "user: eve", 1), ":5: no such user: 'eve'"),
        (GOOD.replace("labels: {env: test}", "node: web1", 1), ":5: no such node: 'web1'"),
        (
            ROLES.replace("env: [test]", "env: ['^(x$']"),
            ":2: '^(x$' is no regular expression",
        ),
    ],
)
def test_a_mistake_in_a_file_is_named_with_its_line(tele: Tele, text: str, expected: str) -> None:
    """What cannot be tested is an error, not an expectation that is not met."""
    roles, tests = written(tele, "roles.yaml", ROLES), written(tele, "tests.yaml", text)
    done = tele.run("access", "test", "--offline", "-f", roles, "-f", tests, status=None)
    assert done.returncode in (2, 5)
    assert expected in done.stderr


def test_an_explanation_names_what_each_role_does(cluster: Cluster) -> None:
    """Who may, who may not, and the role, label or lock that decides it."""
    tele = cluster.tele
    tele.run("apply", "-f", written(tele, "roles.yaml", ROLES))
    (node,) = tele.json("ls")

    def ask(login: str, *words: Any) -> Any:
        target = f"{login}@{node['name']}"
        return tele.json("access", "explain", "bob", target, *words)

    found = ask("root")
    assert found["allowed"]
    effects = {each["role"]: (each["effect"], "; ".join(each["why"])) for each in found["roles"]}
    assert effects["backup"][0] == "allows"
    assert effects["dev"] == (
        "nothing",
        "allow.logins is bob; allow.node_labels wants env=test; the node has no env",
    )
    assert effects["careful"][0] == "nothing"
    assert found["actions"]["command"] == ["backup"]
    assert "shell" not in found["actions"]
    refused = ask("www")
    assert (refused["allowed"], refused["reason"]) == (False, "login")
    assert ask("root", "--at", "2099-01-01T00:00:00Z")["allowed"]
    tele.run("locks", "add", "--user", "bob", "--message", "call security", "--name", "stop")
    assert (ask("root")["reason"], ask("root")["message"]) == (
        "locked",
        "bob is locked by stop: call security",
    )
    text = tele.run("access", "explain", "bob", f"root@{node['name']}").stdout
    assert text.startswith(f"bob may not log in as root to {node['name']}\nreason: locked: ")
    assert "no such user" in tele.fails(5, "access", "explain", "eve", f"root@{node['name']}")
    assert "no such node" in tele.fails(5, "access", "explain", "bob", "root@nowhere")
    assert "LOGIN@NODE" in tele.fails(2, "access", "explain", "bob", "nowhere")


def test_an_explanation_agrees_with_ssh(cluster: Cluster) -> None:
    """What is explained for the owner is what happens."""
    tele = cluster.tele
    (node,) = tele.json("ls")
    me = tele.json("status")["user"]
    login = tele.json("status")["logins"][0]
    target = f"{login}@{node['name']}"
    assert tele.json("access", "explain", me, target)["allowed"]
    assert tele.run("ssh", target, "echo in").stdout == "in\n"
