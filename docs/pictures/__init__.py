"""Pictures for the pages, taken by `python -m docs.pictures` with Chromium; they have less than 300 kB each."""
