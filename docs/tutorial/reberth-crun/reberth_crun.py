"""Backend `crun`: OCI containers of crun, by their id. crun drives CRIU through libcriu; CRIU's hooks hold it."""

from __future__ import annotations

from reberth_hooks import Shell
from reberth_hooks.criu.oci import OciBackend


class Crun(OciBackend):
    """What crun does its own way."""

    name = "crun"
    tools = ("ldconfig",)
    settings = ("/etc/criu/crun.conf", "/etc/criu/runc.conf")
    # crun makes the container's cgroup itself. Were CRIU to do it, it would take the source's other cgroups of
    # version 1 along where such are mounted (crun 1.21, CRIU 4.2.1), and nothing would ever remove them.
    flags = ("--manage-cgroups-mode=ignore", "--file-locks")

    def fault(self, shell: Shell) -> tuple[str, str]:
        """crun must be built with CRIU, and must find its library at run time."""
        if "+CRIU" not in shell.run(["crun", "--version"]).out:
            return "this crun is built without CRIU", "install one with +CRIU"
        if "libcriu.so" not in shell.run(["ldconfig", "-p"]).out:
            return "crun loads libcriu, which is not installed", "install libcriu2"
        return "", ""


backend = Crun()
