"""The table of the tools of `supawire mcp`, from the server itself."""

import asyncio

from docs.tables import rows, table


@table("mcp-tools", needs="mcp")
def tools() -> str:
    """Return the table of the tools with their arguments; * marks those that are required."""
    from supawire.cli.mcp.tools import create_server

    lines: list[tuple[str, str, str]] = []
    for tool in asyncio.run(create_server().list_tools()):
        required = tool.input_schema.get("required", [])
        arguments = [f"`{name}`{'*' * (name in required)}" for name in tool.input_schema.get("properties", {})]
        summary = (tool.description or "").partition("\n\n")[0]
        lines.append((f"`{tool.name}`", " ".join(summary.split()), ", ".join(arguments)))
    return rows(["tool", "does", "arguments"], lines)
