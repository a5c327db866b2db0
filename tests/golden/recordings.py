"""Traffic that was recorded between test clients and the real server (Supabase Realtime 2.129.8).

Each line of the files in `frames/` is a record: v1.jsonl has wire version 1.0.0, v2.jsonl has 2.0.0. Tokens are
replaced by `<jwt>`. Very long frames were cut in the middle of a run of `a`; they are restored here to their length.
"""

import json
import re
from functools import cache
from pathlib import Path
from typing import Any, Final, NamedTuple

FOLDER: Final = Path(__file__).resolve().parent / "frames"
VERSIONS: Final = ("1.0.0", "2.0.0")


class Record(NamedTuple):
    """A frame, a reply to an upgrade, or the end of one connection."""

    vsn: str
    scenario: str
    conn: str
    number: int
    """The position among the records of the scenario and version."""
    t: float
    sent: bool
    """Whether the client sent it."""
    kind: str
    """`text`, `binary`, `http` (the response to an upgrade, or to a request if there is a label) or `close`."""
    data: bytes
    length: int | None
    """The original length of a frame that was cut."""
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
        """Return the frame as plain JSON."""
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


def _restored(records: list[Record]) -> list[Record]:
    """Restore frames that were cut. In 1.0.0 a frame ends with its refs: the next ref, and that of the last join."""
    ref = join = 0
    restored: list[Record] = []
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
        restored.append(record._replace(data=data))
    return restored


@cache
def scenarios(vsn: str) -> dict[str, list[Record]]:
    """Return the records of one version by scenario, in order."""
    found: dict[str, list[Record]] = {}
    for line in file_of(vsn).read_text(encoding="utf-8").splitlines():
        parts = json.loads(line)
        records = found.setdefault(parts["scenario"], [])
        records.append(_record(vsn, len(records), parts))
    return {name: _restored(records) for name, records in found.items()}


def all_scenarios() -> list[tuple[str, str]]:
    """Return version and name of each scenario."""
    return [(vsn, name) for vsn in VERSIONS for name in scenarios(vsn)]
