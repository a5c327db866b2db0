"""The dashboard for Grafana, and the metrics as Prometheus gets them."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("opentelemetry.exporter.prometheus")
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from prometheus_client import REGISTRY, generate_latest

from supawire import LocalServer, broadcast, changes, connect
from supawire.telemetry import Telemetry
from supawire.worker import JobStats

DASHBOARD = Path(__file__).parents[2] / "examples" / "observability" / "grafana.json"
NAME = re.compile(r"\b(?:supawire|messaging)_\w+")
LABELS = re.compile(r"\bby \(([\w, ]+)\)")


class Worker:
    """An object with the counters of one job."""

    class Stats:
        jobs: dict[str, Any] = {  # noqa: RUF012
            "mail": JobStats("mail", 1, 1, 0, 0, 0, 0, 0, 1, 0, 1, {}, 0.5, None),
        }

    def stats(self) -> Any:
        return self.Stats()


def queries() -> list[str]:
    return [target["expr"] for panel in json.loads(DASHBOARD.read_text())["panels"] for target in panel["targets"]]


@pytest.fixture
def exported(server: LocalServer) -> str:
    """Return what Prometheus gets from a client with a channel, a handler, a change and a worker."""
    reader = PrometheusMetricReader()
    provider = MeterProvider([reader])
    telemetry, worker, seen = Telemetry(meter_provider=provider, traces=False), Worker(), list[Any]()
    telemetry.watch_worker(worker)
    with connect(server.url, server.anon_key, telemetry=telemetry) as client:
        room = client.channel("room", echo=True, ack=True)
        room.on(broadcast("e"), seen.append)
        stream = room.listen(changes("users"))
        room.subscribe(wait="ready")
        room.broadcast("e", {})
        server.emit("INSERT", "users", record={"id": 1})
        stream.get(timeout=5)
        client.ping()
        text = generate_latest(REGISTRY).decode()
    provider.shutdown()
    return text


def test_each_metric_of_the_dashboard_is_exported(exported: str):
    """Each name in the dashboard is one that the exporter makes of our metrics, with the labels it groups by."""
    series = [line for line in exported.splitlines() if line and not line.startswith("#")]
    names = {name for query in queries() for name in NAME.findall(query) if "_name" not in name}
    assert len(names) > 20
    for name in names:
        assert any(line.startswith(f"{name}{{") for line in series), name
    for query in queries():
        (name, *_), labels = NAME.findall(query.split("rate(")[-1].split(") (")[-1]), LABELS.findall(query)
        line = next(line for line in series if line.startswith(f"{name}{{"))
        for label in (one.strip() for group in labels for one in group.split(",")):
            assert f"{label}=" in line, (query, label)


def test_the_dashboard_is_a_dashboard():
    """The file is JSON with panels that have distinct ids, titles and a data source that can be chosen."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len({panel["title"] for panel in panels}) == len(panels)
    assert {panel["datasource"]["uid"] for panel in panels} == {"${datasource}"}
