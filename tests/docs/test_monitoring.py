"""The alert rules and the dashboard use names that exist, and ask of them what they have."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from attrs import fields_dict
from prometheus_client import ProcessCollector
from ruamel.yaml import YAML

from document_blocks import ROOT
from tele.config.metrics import NODE_DEFAULT
from tele.config.values import AuthConfig, ProxyConfig
from tele.measures.catalogue import CATALOGUE
from tele.measures.metric import Kind

MONITORING = ROOT / "docs" / "examples" / "monitoring"
#: What Prometheus adds itself.
ADDED = frozenset(("instance", "job", "part"))
#: Words of the query language.
WORDS = frozenset((
    "abs", "and", "by", "count", "histogram_quantile", "increase", "le", "max", "min", "or", "rate",
    "sum", "time", "up",
))  # fmt: skip


def read_yaml(name: str) -> Any:
    """Return what a file has."""
    return YAML(typ="safe", pure=True).load((MONITORING / name).read_text())


@cache
def expressions() -> tuple[tuple[str, str], ...]:
    """Every query, with where it is."""
    rules = [rule for group in read_yaml("tele.rules.yml")["groups"] for rule in group["rules"]]
    panels = json.loads((MONITORING / "grafana.json").read_text())["panels"]
    return (
        *((rule["alert"], rule["expr"]) for rule in rules),
        *((panel["title"], each["expr"]) for panel in panels for each in panel["targets"]),
    )


def names_in(query: str) -> Iterator[tuple[str, str]]:
    """Yield the names of numbers in a query, each with its braces."""
    for match in re.finditer(r"\b((?:tele|process)_\w+)(\{[^}]*\})?", query):
        yield match[1], match[2] or ""


@pytest.mark.parametrize(("where", "query"), expressions(), ids=lambda value: value[:40])
def test_a_query_uses_what_exists(where: str, query: str) -> None:
    """Names and labels are those of the catalogue; counters are asked for their rate, and
    histograms for their classes.
    """
    process = {family.name for family in ProcessCollector(registry=None).collect()}
    found = list(names_in(query))
    assert found or "up{" in query, where
    labels = set(ADDED)
    for name, braces in found:
        if name.startswith("process_"):
            assert name.removesuffix("_total") in process
            continue
        metric = CATALOGUE[name.removesuffix("_bucket")]
        assert name.endswith("_bucket") == (metric.kind is Kind.HISTOGRAM)
        if metric.kind is not Kind.GAUGE:
            assert re.search(rf"\b(rate|increase)\({name}", query), f"{where}: a count since ever"
        labels |= set(metric.labels)
        asked = re.findall(r"(\w+)\s*(?:=|!=|=~|!~)\s*\"", braces)
        assert set(asked) <= set(metric.labels) | ADDED, where
    for group in re.findall(r"by \(([^)]*)\)", query):
        assert {each.strip() for each in group.split(",")} <= labels | {"le"}, where
    bare = re.sub(r"\"[^\"]*\"|\{[^}]*\}|\[[^\]]*\]|by \([^)]*\)", "", query)
    words = set(re.findall(r"\b[a-z][a-z_]*", bare)) - {name for name, _ in found}
    assert words <= WORDS, where


def test_the_texts_of_alerts_use_labels_that_their_queries_keep() -> None:
    """A text never shows an empty place."""
    for group in read_yaml("tele.rules.yml")["groups"]:
        for rule in group["rules"]:
            kept = set(ADDED)
            grouped = re.findall(r"by \(([^)]*)\)", rule["expr"])
            for names in grouped:
                kept |= {each.strip() for each in names.split(",")}
            for name, _ in () if grouped else names_in(rule["expr"]):
                kept |= set(CATALOGUE[name].labels)
            shown = re.findall(r"\$labels\.(\w+)", json.dumps(rule["annotations"]))
            assert set(shown) <= kept, rule["alert"]
            assert set(rule["annotations"]) == {"summary", "description"}
            assert rule["labels"]["severity"] in ("warning", "critical")


def test_the_dashboard_has_places_for_its_panels() -> None:
    """No two panels are one over the other, and each has an id of its own."""
    panels = json.loads((MONITORING / "grafana.json").read_text())["panels"]
    places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}
    assert len(places) == len({panel["id"] for panel in panels}) == len(panels)


def test_prometheus_asks_where_parts_listen() -> None:
    """The example has the addresses that parts have by default."""
    targets = {
        config["labels"]["part"]: config["targets"]
        for job in read_yaml("prometheus.yml")["scrape_configs"]
        for config in job["static_configs"]
    }
    for part, cls in (("auth", AuthConfig), ("proxy", ProxyConfig)):
        assert targets[part] == [str(fields_dict(cls)["metrics"].default)]
    assert targets["node"] == [str(NODE_DEFAULT)]


def test_every_number_is_on_the_dashboard_or_in_a_rule() -> None:
    """What is not looked at need not be counted; but these are for those who look for more."""
    used = {
        name.removesuffix("_bucket") for _, query in expressions() for name, _ in names_in(query)
    }
    more = {"tele_build_info", "tele_scrapes_total", "tele_cluster_state_age_seconds",
            "tele_heartbeat_age_seconds", "tele_recordings_open", "tele_recording_spool_free_bytes",
            "tele_nodes", "tele_api_connections", "tele_store_conflicts_total",
            "tele_audit_sink_errors_total"}  # fmt: skip
    assert set(CATALOGUE) - used == more
    assert Path(MONITORING).is_dir()
