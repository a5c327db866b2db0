"""Settings of Sphinx: `sphinx-build -W --keep-going -b html docs site` builds the pages; a warning is an error."""

import os
import sys
from importlib.metadata import version as installed_version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from docs.tables.requirements import requirements
from supawire.errors import DOCS_URL

generated = Path(__file__).resolve().parent / "_generated"
generated.mkdir(exist_ok=True)
(generated / "guarantees.md").write_text(requirements(), encoding="utf-8")

project = "supawire"
author = "the supawire authors"
version = release = installed_version("supawire")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.viewcode",
    "docs.docstrings",
    "docs.markdown",
    "docs.links",
]
source_suffix = {".md": "markdown"}
exclude_patterns = ["tables/**", "_generated/**"]

myst_heading_anchors = 3
myst_enable_extensions = ["attrs_block", "attrs_inline", "colon_fence", "deflist"]

smartquotes = False  # many quotes are those of Python
default_role = "code"
autodoc_default_options = {
    "members": True,
    "member-order": "bysource",
    # members inherited from classes of ours, not from these
    "inherited-members": "str,Mapping,Collection,Struct,Generic,Protocol,OSError,ValueError,RuntimeError,Exception",
}
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
maximum_signature_line_length = 100
python_use_unqualified_type_names = True
add_module_names = False

html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["pages.css"]
html_baseurl = os.environ.get("READTHEDOCS_CANONICAL_URL", DOCS_URL)
html_title = f"supawire {release}"
html_show_copyright = False
html_use_index = False
html_domain_indices = False
html_copy_source = False  # each page is there as Markdown
