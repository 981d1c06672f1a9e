"""``tele store copy``: a cluster goes on in another store, and what is refused."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from tele.interfaces import Put
from tele.store import sqlite_file
from tele_command import Cluster, Tele


def test_refusals(tele: Tele, tmp_path: Path) -> None:
    """Each says what to do; the copy itself prints how much it is."""
    with closing(sqlite_file.open_file(tmp_path / "a")) as store:
        sqlite_file.commit(store, [(Put("/a", b"1"), Put("/b", b"2"))], 0.0)
        assert "stop auth" in tele.fails(1, "store", "copy", f"sqlite:{tmp_path}/a", "sqlite:b")
    done = tele.run("store", "copy", f"sqlite:{tmp_path}/a", f"sqlite:{tmp_path}/b")
    assert "ok: copied 2 items" in done.stdout
    for origin, destination, text in (
        ("a", "b", "exists already"),
        ("a", "a", "same store"),
        ("nothing", "c", "there is no store"),
    ):
        assert text in tele.run(
            "store", "copy", f"sqlite:{tmp_path}/{origin}", f"sqlite:{tmp_path}/{destination}",
            status=None,
        ).stderr  # fmt: skip
    assert "sqlite:PATH" in tele.fails(2, "store", "copy", "memory", f"sqlite:{tmp_path}/c")
    assert not (tmp_path / "c").exists()


def test_a_cluster_goes_on(cluster: Cluster, tmp_path: Path) -> None:
    """Its node, its user and their login are there in the copy; while it runs it is refused."""
    folder, tele = cluster.folder, cluster.tele
    copy = ("store", "copy", f"sqlite:{folder}/auth.sqlite", f"sqlite:{folder}/other.sqlite")
    before = tele.json("ls")
    assert "stop auth" in tele.fails(1, *copy)
    cluster.down()
    tele.run(*copy)
    config = folder / "tele.yaml"
    config.write_text(
        config.read_text().replace(
            "  cluster_name:", "  store: sqlite:other.sqlite\n  cluster_name:"
        )
    )
    cluster.up()
    after = tele.json("ls")
    assert [(node["id"], node["name"]) for node in after] == [
        (node["id"], node["name"]) for node in before
    ]
    assert "ok" in tele.run("audit", "verify").stdout
