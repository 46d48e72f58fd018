"""A daemon's REST API: pylxd makes the requests, the node's helper carries them to the daemon's socket."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from reberth_hooks import CommandError, HelperError, Node, PluginError, Shell, UntrustedError
from reberth_lxd.api import kinds
from reberth_lxd.https import connect

if TYPE_CHECKING:
    import pylxd

SOCKETS = (
    "/var/snap/lxd/common/lxd/unix.socket",
    "/var/lib/lxd/unix.socket",
    "/var/lib/incus/unix.socket",
    "/run/incus/unix.socket",
)
RUNNING, STOPPED = 103, 102
OVER = 200  # from here on an operation's status is final; 200 alone is success
REQUEST_S = 60.0
WAIT_S, MAKE_S = 90.0, 1800.0


class MissingError(CommandError):
    """The daemon has no such thing."""


def over(operation: dict[str, Any]) -> bool:
    """Tell whether an operation has a final status, or is forgotten, as LXD does seconds after its end."""
    return bool(operation["status_code"] >= OVER or operation["status_code"] == 0)


def socket_of(node: Node, shell: Shell | None) -> str:
    """Return where the daemon listens: as configured, else the first of the usual places that answers; empty for none.

    Of a node that is only an API it is the address, and there is no shell.
    """
    if connect.over_api(node):
        return connect.url_of(node)
    own = node.options_of("lxd").get("socket")
    places = [str(own)] if own else list(SOCKETS)
    assert shell is not None
    found = shell.call("stats", paths=places)
    there = [path for path, entry in zip(places, found, strict=True) if entry]
    if len(there) > 1:  # a daemon that was stopped for good leaves its socket beside the one that is used now
        there = [path for path in there if _answers(shell, path)] or there
    return there[0] if there else ""


def _answers(shell: Shell, path: str) -> bool:
    try:
        return bool(shell.call("unix_request", path=path, method="GET", url="/1.0", body="", timeout_s=5.0))
    except HelperError:
        return False


class Daemon:
    """One daemon, LXD or Incus; made anew by each hook, since hooks keep no state."""

    def __init__(self, node: Node, shell: Shell | None, socket: str = "") -> None:
        self.node = node
        self.socket = socket or socket_of(node, shell)
        if not self.socket:
            hint = f'is LXD or Incus installed there? else: [nodes.{node.name}.lxd] socket = "..."'
            raise CommandError(f"no daemon's socket on node {node.name}", hint=hint)
        self.client = (
            _client(node, shell, self.socket) if shell and not connect.over_api(node) else connect.connect(node)
        )
        self.host: dict[str, Any] = dict(self.client.host_info)
        if self.host.get("auth") != "trusted":
            hint = self.spoken(f"on that node: lxc config trust add {connect.identity_of(node)}/client.crt")
            raise UntrustedError(f"the daemon of node {node.name} does not trust this client", hint=hint)

    @property
    def environment(self) -> dict[str, Any]:
        """Return what the daemon says of itself: server, server_version, addresses, certificate, ..."""
        return dict(self.host["environment"])

    @property
    def extensions(self) -> list[str]:
        """Return what the daemon's API can, by the names that it lists."""
        return list(self.host.get("api_extensions") or [])

    def spoken(self, hint: str) -> str:
        """Return a hint with a command of `lxc`, in words of the client that belongs to this daemon."""
        return kinds.spoken(kinds.kind_of(self.extensions), hint)

    def get(self, *path: str) -> dict[str, Any] | None:
        """Return what a GET answers, None where there is nothing."""
        try:
            found: dict[str, Any] = self._ask("get", path)["metadata"]
        except MissingError:
            return None
        return found

    def list(self, *path: str) -> Any:
        """Return every entry of a collection, whole."""
        return self._ask("get", path, params={"recursion": "2"})["metadata"]

    def projects_of(self, name: str) -> Sequence[str]:
        """Return the projects that have an instance of this name."""
        found = self._ask("get", ("instances",), params={"recursion": "1", "all-projects": "true"})["metadata"] or []
        return sorted(str(one.get("project")) for one in found if one["name"] == name)

    def operations(self) -> Sequence[dict[str, Any]]:
        """Return every operation that the daemon still knows."""
        kinds = self._ask("get", ("operations",), params={"recursion": "1"})["metadata"] or {}
        return [dict(one) for some in kinds.values() for one in some]

    def post(self, *path: str, json: dict[str, Any], params: dict[str, str] | None = None) -> dict[str, Any]:
        """Begin something; returns the operation's URL and the secrets of its websockets (never to be kept)."""
        found = self._ask("post", path, json=json, **({"params": params} if params else {}))
        return {"url": str(found["operation"]), "secrets": (found.get("metadata") or {}).get("metadata") or {}}

    def create(self, *path: str, json: dict[str, Any]) -> None:
        """Make something, whatever its size, and wait until it is done."""
        self._wait(self._ask("post", path, json=json), limit_s=MAKE_S)

    def patch(self, *path: str, json: dict[str, Any]) -> None:
        """Change something and wait until it is done."""
        self._wait(self._ask("patch", path, json=json))

    def put(self, *path: str, json: dict[str, Any], limit_s: float = WAIT_S) -> None:
        """Set something and wait until it is done."""
        self._wait(self._ask("put", path, json=json), limit_s)

    def delete(self, *path: str) -> None:
        """Remove something and wait until it is gone; nothing to remove is fine."""
        with contextlib.suppress(MissingError):
            self._wait(self._ask("delete", path))

    def operation(self, url: str) -> dict[str, Any]:
        """Return an operation as it is now; one that the daemon has forgotten answers status_code 0."""
        return self.get("operations", url.rpartition("/")[2]) or {"status_code": 0, "err": ""}

    def _wait(self, answer: dict[str, Any], limit_s: float = WAIT_S) -> None:
        url = str(answer.get("operation") or "")
        deadline = time.monotonic() + limit_s
        while url:
            found = self.operation(url)
            if over(found):
                if found["status_code"] > OVER:
                    raise CommandError(f"node {self.node.name}: {found['err']}")
                return
            if time.monotonic() > deadline:
                raise CommandError(f"node {self.node.name}: {found.get('description')} takes more than {limit_s:g} s")
            time.sleep(0.1)

    def _ask(self, method: str, path: tuple[str, ...], **words: Any) -> dict[str, Any]:
        from pylxd.exceptions import LXDAPIException, NotFound

        api: Any = self.client.api
        for word in path:
            api = api[quote(word, safe="")]
        try:
            answer: dict[str, Any] = getattr(api, method)(**words).json()
        except NotFound as error:
            raise MissingError(f"the daemon of node {self.node.name} has no {'/'.join(path)}") from error
        except LXDAPIException as error:
            raise CommandError(f"the daemon of node {self.node.name} says: {error}") from error
        except OSError as error:  # what requests raises
            raise CommandError(f"the daemon of node {self.node.name} does not answer: {error}") from error
        return answer


def _client(node: Node, shell: Shell, socket: str) -> pylxd.Client:
    """Return a pylxd client whose requests the node's helper hands to the daemon's socket."""
    from reberth_lxd.api import vendor

    vendor.enable()
    try:
        import pylxd
        import requests

        from reberth_lxd.https.adapter import HelperAdapter
    except ImportError as error:
        raise PluginError(f"plugin lxd: it needs pylxd, and {error}", hint=connect.LACKING) from error
    from pylxd.exceptions import ClientConnectionFailed, LXDAPIException

    session = requests.Session()
    session.mount("http+unix://", HelperAdapter(shell, socket))
    try:
        return pylxd.Client(f"http+unix://{quote(socket, safe='')}", session=session, timeout=REQUEST_S)
    except (ClientConnectionFailed, LXDAPIException, OSError) as error:
        raise CommandError(f"the daemon of node {node.name} does not answer: {error}", hint="does it run?") from error
