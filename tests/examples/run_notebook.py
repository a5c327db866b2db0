"""Run a notebook like Jupyter and print the output of each cell; in the environment that has nbclient."""

import json
import sys
from pathlib import Path
from typing import Any

import nbformat  # pyright: ignore[reportMissingImports]
from nbclient import NotebookClient  # pyright: ignore[reportMissingImports]


def shown(cell: Any) -> str:
    """Return the text of its outputs."""
    return "".join(out.get("text", "") or out.get("data", {}).get("text/plain", "") for out in cell.outputs)


path = Path(sys.argv[1])
notebook = nbformat.read(path, as_version=4)
NotebookClient(notebook, timeout=120, kernel_name="python3").execute(cwd=str(path.parent))
print(json.dumps([shown(cell) for cell in notebook.cells if cell.cell_type == "code"]))
