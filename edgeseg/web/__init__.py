"""The live page: a session in the browser, over REST, and for Prometheus.

``LivePage`` (``live_page.py``) is what a program starts; ``read_token`` finds the token that a page
needs beyond loopback. Starlette, uvicorn and websockets come with the extra ``web`` and are
imported when a page is started.
"""

from __future__ import annotations

from edgeseg.web.live_page import LivePage
from edgeseg.web.token import TOKEN_VARIABLE, read_token

__all__ = ["TOKEN_VARIABLE", "LivePage", "read_token"]
