"""Traffic that was recorded between test clients and the real server (Supabase Realtime 2.129.8).

One record a line in `frames/`: v1.jsonl holds wire version 1.0.0, v2.jsonl 2.0.0. Tokens are `<jwt>`. Frames that were
very long are cut in the middle of a run of `a`, and rebuilt here to the length that is recorded.
"""

import json
import re
from functools import cache
from pathlib import Path
from typing import Any, Final, NamedTuple

FOLDER: Final = Path(__file__).resolve().parent / "frames"
VERSIONS: Final = ("1.0.0", "2.0.0")


class Record(NamedTuple):
    """One thing that happened on one connection."""

    vsn: str
    scenario: str
    conn: str
    number: int
    """Its place among the records of its scenario and version."""
    t: float
    sent: bool
    """By the client."""
    kind: str
    """`text`, `binary`, `http` (the answer to an upgrade, or to a request when there is a label) or `close`."""
    data: bytes
    length: int | None
    """Of a frame that was cut."""
    code: int | None
    status: int | None
    label: str | None

    @property
    def name(self) -> str:
        return f"{self.scenario} v{self.vsn[0]} #{self.number}"

    @property
    def is_frame(self) -> bool:
        return self.kind in ("text", "binary")

    @property
    def text(self) -> str:
        return self.data.decode()

    def json(self) -> Any:
        """Its plain JSON."""
        return json.loads(self.data)


def file_of(vsn: str) -> Path:
    return FOLDER / f"v{vsn[0]}.jsonl"


def _record(vsn: str, number: int, line: dict[str, Any]) -> Record:
    kind, data = line["kind"], line["data"]
    return Record(
        vsn=vsn,
        scenario=line["scenario"],
        conn=line["conn"],
        number=number,
        t=line["t"],
        sent=line["dir"] == "send",
        kind=kind,
        data=bytes.fromhex(data) if kind == "binary" else data.encode(),
        length=line.get("cut_from_chars") or (line.get("size") if data.endswith("...") else None),
        code=line.get("code"),
        status=line.get("status", int(data) if kind == "http" and data.isdigit() else None),
        label=line.get("label"),
    )


_REF: Final = {"1.0.0": re.compile(rb'"ref": ?"(\d+)"'), "2.0.0": re.compile(rb'^\[(?:"\d+"|null), ?"(\d+)"')}
_END_OF_RECEIVED: Final = {"1.0.0": b'"},"type":"broadcast"}}', "2.0.0": b'"},"type":"broadcast"}]'}


def _rebuilt(records: list[Record]) -> list[Record]:
    """Fill up what was cut. The end of a frame of 1.0.0 has its refs: the next ref, and that of the last join."""
    ref = join = 0
    whole: list[Record] = []
    for record in records:
        data = record.data
        if record.length is not None:
            data = data.removesuffix(b"...")
            refs = b', "ref": "%d", "join_ref": "%d"}' % (ref + 1, join) if record.vsn == "1.0.0" else b"]"
            end = b'"}}' + refs if record.sent else _END_OF_RECEIVED[record.vsn]
            data += b"a" * (record.length - len(data) - len(end)) + end
        if record.sent and (found := _REF[record.vsn].search(data)):
            ref = int(found[1])
            join = ref if b"phx_join" in data else join
        whole.append(record._replace(data=data))
    return whole


@cache
def scenarios(vsn: str) -> dict[str, list[Record]]:
    """The records of one version by scenario, in order."""
    found: dict[str, list[Record]] = {}
    for line in file_of(vsn).read_text(encoding="utf-8").splitlines():
        parts = json.loads(line)
        records = found.setdefault(parts["scenario"], [])
        records.append(_record(vsn, len(records), parts))
    return {name: _rebuilt(records) for name, records in found.items()}


def every() -> list[tuple[str, str]]:
    """Version and name of each scenario."""
    return [(vsn, name) for vsn in VERSIONS for name in scenarios(vsn)]
