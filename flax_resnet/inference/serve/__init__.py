"""An HTTP server of a classifier (extra ``serve``): ``create_app``, and ``run_server`` around it.

``app.py`` holds the routes, ``v2.py`` those of the Open Inference Protocol, ``bodies.py`` reads
uploads, ``service.py`` admits, decodes and answers photos, ``batching.py`` computes them in
batches, and ``server.py`` binds, starts and drains.
"""

from .app import create_app
from .server import run_server
from .settings import ServeSettings

__all__ = ["ServeSettings", "create_app", "run_server"]
