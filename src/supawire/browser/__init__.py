"""Files for browsers: `STREAMS` is the path of a JavaScript module that shows live streams with supabase-js."""

from pathlib import Path
from typing import Final

STREAMS: Final = Path(__file__).with_name("streams.js")
"""The module `streams.js`; serve it, or copy it into your front end."""
