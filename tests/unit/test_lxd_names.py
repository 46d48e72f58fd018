"""Names stand for no identity: projects of the client, remotes that are another daemon than the node of their name."""

from __future__ import annotations

import hashlib
import json
import ssl
import subprocess
from types import SimpleNamespace

import pytest

from reberth_hooks import Node, Options, UntrustedError, UsageError, Workload
from reberth_lxd import dispatch
from reberth_lxd.api import identity, keys
from reberth_lxd.client import shim

TRUE = {keys.KEY: "true"}
OURS = ["--goal", "80"]


def client(*, n1="", n2="", local="", default="local", word="Project", asked=None, daemons=None, config=TRUE):
    """The native client, whose remotes have these projects; `asked` has the queries."""
    projects = {"local": local, "n1": n1, "n2": n2}

    def run(argv):
        if argv[1:3] == ["remote", "list"]:
            return json.dumps({name: {"Addr": f"https://{name}:8443", word: p} for name, p in projects.items()})
        if argv[1:3] == ["remote", "get-default"]:
            return f"{default}\n"
        assert argv[1] == "query"
        if asked is not None:
            asked.append(argv[2])
        if argv[2].endswith(":/1.0"):
            found = (daemons or {}).get(argv[2].partition(":")[0])
            if found is None:
                raise subprocess.CalledProcessError(1, argv, stderr="no route to host")
            return json.dumps({"environment": {"certificate_fingerprint": found}})
        return json.dumps({"type": "container", "status_code": 103, "expanded_config": config})

    return run


@pytest.mark.parametrize(
    ("words", "projects", "named"),
    [
        (["n1:p1", "n2:"], {"n1": "dev"}, "project dev, for the target that is default"),
        (["n1:p1", "n2:"], {"n1": "dev", "word": "project"}, "project dev, for the target that is default"),
        (["n1:p1", "n2:"], {"n2": "dev"}, "project default, for the target that is dev"),
        (["p1", "n2:"], {"local": "dev"}, "project dev, for the target that is default"),
        (["p1", "n2:"], {"n1": "dev", "default": "n1"}, "project dev, for the target that is default"),
    ],
)
def test_from_one_project_to_another_is_refused(words, projects, named):
    """The one that the client means is never taken for that of the same name in the default project."""
    for ours in ([], OURS):
        with pytest.raises(UsageError, match=named) as caught:
            shim.decide("lxc", [*words, *ours], client(**projects))
        assert "--native" in caught.value.hint


@pytest.mark.parametrize(
    ("words", "projects"),
    [
        (["n1:p1", "n2:"], {"n1": "dev", "n2": "dev"}),
        (["n1:p1", "n2:", "--project", "dev"], {}),
        (["n1:p1", "n2:", "--project=dev"], {"n1": "default"}),
    ],
)
def test_another_project_is_the_clients_affair(words, projects, capsys):
    assert shim.decide("lxc", words, client(**projects)) is None
    assert "the client's project dev" in capsys.readouterr().err
    with pytest.raises(UsageError, match="client's project dev") as caught:
        shim.decide("lxc", [*words, *OURS], client(**projects))
    assert "--native" in caught.value.hint


def test_the_key_is_that_of_the_container_which_is_meant():
    asked = []
    run = client(n1="dev", n2="dev", asked=asked, config={keys.KEY: "false"})
    assert shim.decide("lxc", ["n1:p1", "n2:"], run) is None
    assert asked == ["n1:/1.0/instances/p1?project=dev"]


@pytest.mark.parametrize(
    ("words", "projects"),
    [
        (["n1:p1", "n2:"], {"n1": "default"}),
        (["n1:p1", "n2:", "--project", "default"], {"n1": "dev", "n2": "dev"}),
        (["n1:p1", "n2:"], {"local": "dev"}),  # neither end
    ],
)
def test_the_default_project_is_ours(words, projects):
    asked = []
    found = shim.decide("lxc", words, client(**projects, asked=asked))
    assert found[-2:] == ["n1:p1", "n2:"] and asked == ["n1:/1.0/instances/p1?project=default"]


def test_the_environment_counts_for_the_client_that_reads_it(monkeypatch):
    monkeypatch.setenv("INCUS_PROJECT", "dev")
    monkeypatch.setenv("LXD_PROJECT", "dev")
    assert shim.decide("incus", ["n1:p1", "n2:"], client()) is None
    assert shim.decide("incus", ["n1:p1", "n2:", "--project", "default"], client()) is not None
    assert shim.decide("lxc", ["n1:p1", "n2:"], client()) is not None


def test_a_name_is_asked_for_as_it_is():
    asked = []
    shim.decide("lxc", ["n1:p1?project=dev", "n2:"], client(asked=asked))
    assert asked == ["n1:/1.0/instances/p1%3Fproject%3Ddev?project=default"]


def test_what_the_client_means_is_handed_over():
    ours = shim.decide("lxc", ["p1", "n2:", *OURS], client())
    assert shim.daemons("lxc", ours, client(daemons={"local": "aa", "n2": "bb"})) == {"local": "aa", "n2": "bb"}
    with pytest.raises(UsageError, match="n2") as caught:
        shim.daemons("lxc", ours, client(daemons={"local": "aa"}))
    assert "reberth move --backend lxd local:p1 n2:" in caught.value.hint


def test_the_shim_tells_which_daemons_are_meant(monkeypatch):
    became = []
    monkeypatch.setattr(shim, "run_client", client(daemons={"n1": "aa", "n2": "bb"}))
    monkeypatch.setattr(shim.os, "execv", lambda path, argv: became.append(argv))
    monkeypatch.setenv(identity.VARIABLE, "")
    shim.become("lxc", ["n1:p1", "n2:"], lambda: {"n1", "n2"})
    assert shim.os.environ[identity.VARIABLE] == "n1=aa,n2=bb" and became[0][-2:] == ["n1:p1", "n2:"]


def survey(facts, **options):
    nodes = [SimpleNamespace(node=Node(name, options={"lxd": options})) for name in ("n1", "n2")]
    found = {end: {"lxd": {"usable": True, "fingerprint": facts[end]}} for end in ("source", "target")}
    return dispatch.reberth_survey(Workload("n1", "lxd", "p1"), "p1", *nodes, found, Options())


@pytest.mark.parametrize("end", ["source", "target"])
def test_a_node_that_is_another_daemon_than_the_remote_of_its_name(monkeypatch, end):
    monkeypatch.setenv(identity.VARIABLE, identity.handed_over({"n1": "a" * 64, "n2": "b" * 64}))
    facts = {"source": "a" * 64, "target": "b" * 64} | {end: "c" * 64}
    with pytest.raises(UntrustedError, match=f"remote n{1 + (end == 'target')} is another daemon") as caught:
        survey(facts)
    assert "--remotes lxc" in caught.value.hint


def test_a_node_whose_ssh_leads_to_another_daemon_than_its_remote(tmp_path):
    pem = tmp_path / "n1.crt"
    pem.write_text(ssl.DER_cert_to_PEM_cert(b"the daemon's own"))
    own = hashlib.sha256(b"the daemon's own").hexdigest()
    identity.refuse_another(Node("n1", options={"lxd": {"certificate": str(pem)}}), {"fingerprint": own})
    with pytest.raises(UntrustedError, match="not the one of its certificate"):
        survey({"source": "c" * 64, "target": own}, certificate=str(pem))
    with pytest.raises(UntrustedError, match="cannot be read"):
        survey({"source": own, "target": own}, certificate=str(tmp_path / "none"))
