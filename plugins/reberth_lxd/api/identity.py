"""Whether a node's daemon is the one that is meant: a name of the client and a name of the inventory prove nothing.

The alias knows what the client means by its remote, by the certificate that the daemon shows to the client; it hands
the fingerprints over in the environment. A node of `reberth node import-lxd` has the certificate of its remote.
"""

from __future__ import annotations

import hashlib
import os
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reberth_hooks import Node, UntrustedError
from reberth_lxd.https.connect import over_api

VARIABLE = "REBERTH_LXD_DAEMONS"


def handed_over(fingerprints: Mapping[str, str]) -> str:
    """Return the value of the variable."""
    return ",".join(f"{node}={fingerprint}" for node, fingerprint in fingerprints.items())


def refuse_another(node: Node, facts: Mapping[str, Any]) -> None:
    """UntrustedError where the node's daemon is not the one that the client or the inventory means."""
    shown = str(facts.get("fingerprint") or "")
    meant = dict(pair.split("=", 1) for pair in os.environ.get(VARIABLE, "").split(",") if "=" in pair)
    if meant.get(node.name, shown) != shown:
        text = f"the client's remote {node.name} is another daemon ({meant[node.name][:12]}) than that of the node"
        hint = f"give one of both another name; or: reberth move --remotes {_client(facts)}, which takes the remotes"
        raise UntrustedError(f"{text} {node.name} ({shown[:12]})", hint=hint)
    if over_api(node) or not (path := str(node.options_of("lxd").get("certificate") or "")):
        return
    if (pinned := _fingerprint(node, path)) != shown:
        text = f"the daemon of node {node.name} ({shown[:12]}) is not the one of its certificate ({pinned[:12]})"
        raise UntrustedError(
            text, hint=f"was it installed anew, or does ssh lead elsewhere? see certificate in: {path}"
        )


def _client(facts: Mapping[str, Any]) -> str:
    return "incus" if facts.get("server") == "incus" else "lxc"


def _fingerprint(node: Node, path: str) -> str:
    try:
        return hashlib.sha256(ssl.PEM_cert_to_DER_cert(Path(path).read_text("ascii"))).hexdigest()
    except (OSError, ValueError) as error:
        hint = f"reberth node rm {node.name}, then: reberth node import-lxd {node.name}"
        raise UntrustedError(f"node {node.name}: its certificate {path!a} cannot be read", hint=hint) from error
