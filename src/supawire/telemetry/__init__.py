"""OpenTelemetry for clients, mirrors and workers: spans, metrics, and trace context in broadcasts.

    telemetry = Telemetry()
    async with connect_async(url, key, telemetry=telemetry) as client: ...

It uses the API of OpenTelemetry only, the extra `otel`; the SDK and the exporters are those of the program.
"""

from importlib.util import find_spec

if find_spec("opentelemetry") is None:
    raise ImportError("supawire.telemetry needs the extra `otel`: pip install 'supawire[otel]'", name="opentelemetry")

from supawire.telemetry.recorder import Telemetry

__all__ = ["Telemetry"]
