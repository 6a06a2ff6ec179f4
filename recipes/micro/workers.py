"""The processes of a run. Not in ``__main__``: a process that is started anew finds nothing there."""

from __future__ import annotations

import os
import threading
from multiprocessing import connection, parent_process

from recipes.micro import making


def start() -> None:
    """In each worker: one thread, and no life after its parent, which would train on and hold the caches that the next run wants."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    making.one_thread()


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])  # a pipe whose other end closes with the parent, however that ends
    os._exit(1)
