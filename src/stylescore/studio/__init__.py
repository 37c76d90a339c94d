"""The studio: a local page on which photos are dropped, stylized and looked at.

The server process (`server`) imports no torch: it checks requests (`guard`), keeps uploads (`uploads`) and a queue in
SQLite (`jobs`), and serves the page in `static/`. One process per device (`worker`) takes jobs from the queue and
computes them (`engine`); it goes on while the page is closed or the server restarts.
"""
