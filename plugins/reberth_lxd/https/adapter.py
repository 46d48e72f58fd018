"""The way of pylxd's requests to a socket on another machine: the node's helper makes them there."""

from __future__ import annotations

from typing import Any

import requests
from requests.adapters import BaseAdapter

from reberth_hooks import ConnectionLostError, HelperError, Shell

PATIENCE_S = 10.0


class HelperAdapter(BaseAdapter):
    """Sends each request through the helper of the node; no port is opened and no certificate needed."""

    def __init__(self, shell: Shell, socket: str) -> None:
        super().__init__()
        self.shell, self.socket = shell, socket

    def send(self, request: requests.PreparedRequest, *_: Any, timeout: Any = None, **__: Any) -> requests.Response:
        """One request; raises requests' own ConnectionError when the daemon does not answer."""
        body = request.body or ""
        words: dict[str, Any] = {
            "path": self.socket,
            "method": request.method,
            "url": request.path_url,
            "body": body.decode() if isinstance(body, bytes) else body,
        }
        try:
            limit_s = timeout or 60.0  # the node's own limit: its error says more than that no answer came
            found = self.shell.begin("unix_request", **words, timeout_s=limit_s).result(limit_s + PATIENCE_S)
        except (HelperError, ConnectionLostError) as error:
            raise requests.ConnectionError(error.message) from error
        response = requests.Response()
        response.status_code = found["status"]
        response.headers.update(found["headers"])
        response.encoding = "utf-8"
        response.request, response.url = request, request.url or ""
        response._content = found["body"].encode()
        return response

    def close(self) -> None:
        """Nothing is kept open."""
