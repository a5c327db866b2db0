"""OpenTelemetry for clients, mirrors and workers: spans, metrics, and trace context in broadcasts.

    telemetry = Telemetry()
    async with connect_async(url, key, telemetry=telemetry) as client: ...

It uses the API of OpenTelemetry only, the extra `otel`; the SDK and the exporters are those of the program.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from supawire.telemetry.recorder import Telemetry

__all__ = ["Telemetry"]

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """Import a public name on first use. Raises: ImportError that names the extra when it is not installed."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        try:
            from supawire.telemetry import recorder
        except ImportError as error:
            raise ImportError(
                "supawire.telemetry needs the extra `otel`: pip install 'supawire[otel]'", name="opentelemetry"
            ) from error
        return getattr(recorder, name)
