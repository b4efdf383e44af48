"""How a request is answered: the wire, the planner of reads, the pipeline of writes, the hub, the background worker.

Imports every room but the command and ``app.py``, which composes its parts; no room below imports it.
"""
