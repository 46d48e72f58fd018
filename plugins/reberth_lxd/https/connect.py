"""A daemon behind its own address: HTTPS with the remote's pinned certificate and the client's own, or a unix socket.

Nothing of ours runs on such a node. What the client (`lxc`, `incus`) keeps of a remote is all that is needed: the
address, the daemon's certificate in `servercerts/`, and the client's own in `client.crt` and `client.key`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from reberth_hooks import Node, PluginError, Route, UnreachableError, UntrustedError, UsageError, hookimpl
from reberth_lxd.api import kinds, vendor

if TYPE_CHECKING:
    import pylxd

CONNECTOR = "lxd"
CONNECT_S, ANSWER_S = 10.0, 60.0
LACKING = "pip install 'reberth[lxd]' on this machine; with the package: apt-get install python3-requests-toolbelt"


def over_api(node: Node) -> bool:
    """Tell whether the node is reached by its daemon's API alone."""
    return node.connector == CONNECTOR


def url_of(node: Node) -> str:
    """Return the daemon's address, `https://HOST:PORT` or `unix:///PATH`; UsageError for anything else."""
    url = str(node.options_of(CONNECTOR).get("url") or "").rstrip("/")
    parts = urlsplit(url)
    if not ((parts.scheme == "https" and parts.hostname) or (parts.scheme == "unix" and parts.path)):
        hint = f'[nodes.{node.name}.lxd] url = "https://192.0.2.1:8443", or: reberth node import-lxd --https'
        raise UsageError(f"node {node.name}: url = {url!a} is no daemon's address", hint=hint)
    return url


@hookimpl
def reberth_connect(node: Node) -> Route:
    """There are no words before a command: no command runs there."""
    return Route(api=True, helper=False, hint=_spoken(node, f"try: lxc info {node.name}: (address {url_of(node)})"))


def connect(node: Node) -> pylxd.Client:
    """Return a client that speaks only with the daemon whose certificate is pinned.

    Raises UntrustedError for another certificate, or where the client has none of its own; UnreachableError.
    """
    vendor.enable()
    try:
        import pylxd
        import requests
        from pylxd.client import get_session_for_url
        from pylxd.exceptions import ClientConnectionFailed, LXDAPIException
    except ImportError as error:
        raise PluginError(f"plugin lxd: it needs pylxd, and {error}", hint=LACKING) from error
    url = url_of(node)
    if unix := url.startswith("unix:"):
        url = f"http+unix://{quote(urlsplit(url).path, safe='')}"
    cert, verify = (None, True) if unix else (own(node), pinned(node))
    try:
        session = get_session_for_url(url, verify=verify, cert=cert)
        session.trust_env = False  # no proxy, no other bundle of certificates, no .netrc
        return pylxd.Client(url, session=session, timeout=(CONNECT_S, ANSWER_S))
    except (ClientConnectionFailed, LXDAPIException, OSError, ValueError) as error:
        if isinstance(error.__context__, requests.exceptions.SSLError) or isinstance(error, ValueError):
            raise _untrusted(node, error) from error
        text = f"the daemon of node {node.name} does not answer at {url_of(node)}"
        raise UnreachableError(text, hint="does it run, and listen there?", tail=str(error)[-300:]) from error


def _untrusted(node: Node, error: Exception) -> UntrustedError:
    text = f"the daemon of node {node.name} does not show the certificate that is pinned for it"
    hint = f"was it installed anew? compare `lxc info` there; then: lxc remote remove {node.name}, lxc remote add"
    return UntrustedError(text, hint=_spoken(node, hint), tail=str(error)[-300:])


def _spoken(node: Node, hint: str) -> str:
    """Return the hint for the client whose folder it is; the daemon was not asked yet what it is."""
    return kinds.spoken("incus" if identity_of(node).name == "incus" else "lxd", hint)


def pinned(node: Node) -> str | bool:
    """Return the file with the daemon's own certificate.

    True where the node has none: then the system's authorities judge.
    """
    path = str(node.options_of(CONNECTOR).get("certificate") or "")
    if path and not Path(path).is_file():
        hint = f"lxc remote remove {node.name}, then lxc remote add {node.name} {url_of(node)}"
        text = f"node {node.name}: the pinned certificate {path!a} is not there"
        raise UntrustedError(text, hint=_spoken(node, hint))
    return path or True


def identity_of(node: Node) -> Path:
    """Return the folder with the client's own certificate and key."""
    return Path(str(node.options_of(CONNECTOR).get("identity") or "~/.config/lxc")).expanduser()


def own(node: Node) -> tuple[str, str]:
    """Return the client's own certificate and key."""
    folder = identity_of(node)
    pair = folder / "client.crt", folder / "client.key"
    if lacking := [str(path) for path in pair if not path.is_file()]:
        hint = f'lxc remote add makes it; another folder: [nodes.{node.name}.lxd] identity = "..."'
        text = f"this client has no certificate of its own: {lacking[0]!a} is not there"
        raise UntrustedError(text, hint=_spoken(node, hint))
    return str(pair[0]), str(pair[1])
