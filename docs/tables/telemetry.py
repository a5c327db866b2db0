"""Table of the metrics, from `supawire.telemetry.instruments`."""

from docs.tables import rows, table
from supawire.telemetry import instruments as all_of

COUNTERS = (*all_of.CHANNEL_COUNTERS, *all_of.CLIENT_COUNTERS, *all_of.WORKER_COUNTERS, *all_of.MIRROR_COUNTERS)
GAUGES = (*all_of.CHANNEL_GAUGES, *all_of.CLIENT_GAUGES, *all_of.LAST_VALUES, *all_of.WORKER_GAUGES)
HISTOGRAMS = (all_of.PROCESS_DURATION, all_of.OPERATION_DURATION, all_of.LAG)
WITH_TOPIC = {one.name for one in (*all_of.CHANNEL_COUNTERS, *all_of.CHANNEL_GAUGES)}
ATTRIBUTES = {
    all_of.PROCESS_DURATION.name: "`supawire.event.kind`, `error.type`",
    all_of.OPERATION_DURATION.name: "`messaging.operation.name`, `error.type`",
    all_of.LAG.name: "",
}


@table("metrics")
def metrics() -> str:
    """Return the table of all metrics, one row for each name."""
    lines: dict[str, list[str]] = {}
    for kind, group in (("counter", COUNTERS), ("gauge", GAUGES)):
        for one in group:
            extra = ", ".join(f"`{name}`" for name in one.extra)
            if one.name.startswith("supawire.worker"):
                extra = ", ".join(filter(None, ("`worker`, `job`", extra)))
            elif one.name.startswith("supawire.mirror"):
                extra = ", ".join(filter(None, ("`mirror`", extra)))
            topic = "yes" if one.name in WITH_TOPIC else ""
            lines.setdefault(one.name, [f"`{one.name}`", kind, one.unit, one.description.rstrip("."), extra, topic])
    for one in HISTOGRAMS:
        topic = "yes" if one is not all_of.LAG else ""
        lines[one.name] = [
            f"`{one.name}`",
            "histogram",
            one.unit,
            one.description.rstrip("."),
            ATTRIBUTES[one.name],
            topic,
        ]
    return rows(["metric", "kind", "unit", "meaning", "attributes", "label of topics"], list(lines.values()))
