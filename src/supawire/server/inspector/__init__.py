"""The page that shows what goes on in a local server, at `/` of it (`HubOptions(inspector=True)`).

Pure but for `shell.py`: `gate.py` says who may look, `overview.py` who is there, `journal.py` what was sent, and
`orders.py` what the page may ask for. Nothing of it costs a frame anything while no page is open.
"""
