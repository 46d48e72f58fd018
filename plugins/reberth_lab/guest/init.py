"""Pid 1 of a node: reaps every orphan, keeps sshd running, ends all on SIGTERM. Runs inside, standard library only."""

from __future__ import annotations

import contextlib
import os
import signal
import time

CGROUP = "/sys/fs/cgroup"
OWN_CGROUP = f"{CGROUP}/init"
SSHD = ["/usr/sbin/sshd", "-D", "-e"]
RESTART_S = 1.0


def enter_cgroup() -> None:
    """Leaves the root of the node's cgroup tree, for controllers cannot be enabled below one that has processes."""
    os.makedirs(OWN_CGROUP, exist_ok=True)
    with open(f"{OWN_CGROUP}/cgroup.procs", "w", encoding="ascii") as file:
        file.write("0")


def start_sshd() -> int:
    """Starts the ssh server in the foreground of a session of its own; returns its pid."""
    os.makedirs("/run/sshd", mode=0o755, exist_ok=True)
    return os.posix_spawn(SSHD[0], SSHD, dict(os.environ), setsid=True, setsigmask=[])


def end(*_: object) -> None:
    """The kernel kills the rest of the pid namespace when pid 1 ends."""
    os._exit(0)


def main() -> None:
    """Never returns: waits for children for ever, and for nothing else."""
    signal.signal(signal.SIGTERM, end)
    enter_cgroup()
    while not os.path.exists("/run/lab-ready"):  # the outer machine has keys and addresses to put in place first
        time.sleep(0.02)
        reap()
    sshd = start_sshd()
    while True:
        with contextlib.suppress(ChildProcessError):
            if os.wait()[0] != sshd:
                continue
        time.sleep(RESTART_S)
        sshd = start_sshd()


def reap() -> None:
    """Collects the children that have ended by now."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


if __name__ == "__main__":
    main()
