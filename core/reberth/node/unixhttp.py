"""Requests to a daemon of this node that listens on a unix socket (LXD, Incus): HTTP/1.1, JSON in and out."""

from __future__ import annotations

import json
import socket
from typing import Any

from reberth.node.errors import OpError

LIMIT_BYTES = 32 << 20


def request(path: str, method: str, url: str, body: str = "", timeout_s: float = 60.0) -> dict[str, Any]:
    """One request to the socket `path`; returns status, headers, body. Raises OpError `daemon`: it does not answer."""
    if method not in ("GET", "POST", "PUT", "PATCH", "DELETE") or not url.startswith("/") or not url.isprintable():
        raise OpError("bad-argument", f"no request: {method} {url!r}")
    import http.client  # with ssl and email: 10 ms, which only runs of LXD need

    connection = http.client.HTTPConnection("localhost", timeout=timeout_s)
    try:
        connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.sock.settimeout(timeout_s)
        connection.sock.connect(path)
        headers = {"Content-Type": "application/json"} if body else {}
        connection.request(method, url, body.encode() or None, headers)
        answer = connection.getresponse()
        text = answer.read(LIMIT_BYTES).decode("utf-8", "replace")
        return {"status": answer.status, "headers": dict(answer.getheaders()), "body": text}
    except (OSError, http.client.HTTPException) as error:
        raise OpError("daemon", f"no answer from {path}: {error}", hint="does the daemon run?") from error
    finally:
        connection.close()


def metadata(path: str, url: str) -> dict[str, Any] | None:
    """Return what a GET answers: empty where there is nothing, None when the daemon does not answer or not as one."""
    try:
        answer = request(path, "GET", url, timeout_s=5.0)
        found = json.loads(answer["body"]).get("metadata") if answer["status"] == 200 else None
    except (OpError, ValueError, AttributeError):
        return None
    if found is None:
        return {} if answer["status"] == 404 else None
    return dict(found)


def operation(path: str, url: str) -> tuple[int | None, str]:
    """Status code and error of an LXD operation; 0 for one that is forgotten, None when the daemon does not answer."""
    found = metadata(path, url)
    if found is None:
        return None, "it does not answer"
    return int(found.get("status_code") or 0), str(found.get("err") or "")


def operation_ended(path: str, url: str) -> bool:
    """Tell whether an LXD operation is over: it has a final status, is forgotten, or died with its daemon."""
    try:
        answer = request(path, "GET", url, timeout_s=5.0)
        return answer["status"] == 404 or int(json.loads(answer["body"])["metadata"]["status_code"]) >= 200
    except OpError as error:  # it does not listen, or hangs up: a daemon that is only slow says neither
        return isinstance(error.__cause__, (ConnectionError, FileNotFoundError))
    except (ValueError, KeyError, TypeError):
        return False
