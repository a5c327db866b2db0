"""The inspector: a page at `/` that shows connections, frames and changes (`HubOptions(inspector=True)`).

`web.py` serves it and checks access; the other modules do no I/O: `overview.py` lists connections and topics,
`journal.py` records frames, `commands.py` handles the page's requests. Frames have no extra cost while no page is
open.
"""
