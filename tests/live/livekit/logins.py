"""Ways to log in to a node that people have: login shells and their files, ssh_config, sudo; a table for a live test.

Each way is a user of node2 with the lab's key, what that user's login does, an ssh_config of the outer machine, and the
words of `node add`. Users have user id 0 under a name of their own, unless sudo is what is tried.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from reberth_lab.lab import Lab
from reberth_lab.node import Node

PORT = 2224  # of a second sshd on node2
NOPASSWD = "NOPASSWD: ALL"


@dataclass(frozen=True)
class Way:
    """One way; `files` below the user's home, `config` the ssh_config, where `{a2}`, `{key}`, `{known}` are filled in.

    `moves` says whether a process is moved to node2 and back, `code` how `node add` ends, `told` what it says then.
    `prepare` changes node2 as root; `sshd` is lines in front of a second sshd's configuration, at PORT.
    """

    shell: str = "/bin/bash"
    files: dict[str, str] = field(default_factory=dict)
    config: str = ""
    words: tuple[str, ...] = ("{a2}",)
    uid: int = 0
    moves: bool = False
    code: int = 0
    told: str = ""
    prepare: str = ""
    sshd: str = ""
    key: str = ""  # before the key in authorized_keys
    undo: str = ""


HOST = "Host there\n  HostName {a2}\n  IdentityFile {key}\n  User {user}\n"
ODD = """\
  RemoteCommand tmux attach
  RequestTTY force
  LogLevel QUIET
  VisualHostKey yes
  StrictHostKeyChecking no
"""
# A connection that is shared, forwards, and runs something here.
BUSY = """\
  ControlMaster auto
  ControlPath {place}/cm
  ForwardAgent yes
  PermitLocalCommand yes
  LocalCommand echo hi
"""
BIG = "head -c 200000 /dev/zero | tr '\\0' x\n"
WAYS: dict[str, Way] = {
    "jump": Way(
        config="Host box\n  HostName {a1}\n  User root\n  IdentityFile {key}\n  UserKnownHostsFile {known}\n"
        "Host there\n  HostName {a2}\n  Port 2224\n  ProxyJump box\n  IdentityFile {key}\n  User {user}\n",
        words=("there",),
        sshd="PrintMotd no",
        prepare="nft add table inet logins; nft add chain inet logins in '{{ type filter hook input priority 0; }}';"
        " nft add rule inet logins in ip saddr != {a1} tcp dport 2224 reject with tcp reset",
        undo="nft delete table inet logins",
        moves=True,
    ),
    "match": Way(
        config="Match originalhost there user {user}\n  HostName {a2}\n  Port 2224\n  IdentityFile {key}\n"
        "Host there\n  HostName {a2}\n  IdentityFile {key}\n",
        words=("there", "--user", "{user}"),
        sshd="HostKey /run/other_key",
        prepare="rm -f /run/other_key*; ssh-keygen -q -t ecdsa -N '' -f /run/other_key",
        moves=True,
    ),
    "fish": Way(shell="/usr/bin/fish", files={".config/fish/config.fish": "echo Welcome to fish\n"}, moves=True),
    "tcsh": Way(shell="/bin/tcsh", files={".tcshrc": "echo Welcome\nstty erase '^H'\nset prompt='%m! '\n"}, moves=True),
    "zsh": Way(shell="/usr/bin/zsh", files={".zshenv": "print Welcome to zsh\n"}, moves=True),
    "noisy bash": Way(files={".bashrc": f"echo Welcome\nstty -ixon\n{BIG}"}, moves=True),
    "sudo with a password": Way(
        uid=1107,
        words=("{a2}", "--become", "sudo"),
        prepare="echo '{user} ALL=(root) ALL' >/etc/sudoers.d/login",
        code=13,
        told="sudo wants a password, and NOPASSWD is needed",
    ),
    # The long tail
    "sudo without one": Way(
        uid=1107,
        words=("{a2}", "--become", "sudo"),
        prepare=f"echo '{{user}} ALL=(root) {NOPASSWD}' >/etc/sudoers.d/login",
        moves=True,
    ),
    "sudo that wants a terminal": Way(
        uid=1107,
        words=("{a2}", "--become", "sudo"),
        prepare="printf 'Defaults requiretty\\n{user} ALL=(root) NOPASSWD: ALL\\n' >/etc/sudoers.d/login",
        code=13,
        told="sudo wants a terminal (requiretty)",
    ),
    "sudo that finds no python3": Way(
        uid=1107,
        words=("{a2}", "--become", "sudo"),
        prepare="printf 'Defaults secure_path=/nowhere\\n{user} ALL=(root) NOPASSWD: ALL\\n' >/etc/sudoers.d/login",
        code=13,
        told="sudo finds no python3",
    ),
    "sudo of somebody else": Way(
        uid=1107, words=("{a2}", "--become", "sudo"), code=13, told="sudo wants a password, and NOPASSWD is needed"
    ),
    "sudo for one program": Way(
        uid=1107,
        words=("{a2}", "--become", "sudo"),
        prepare="echo '{user} ALL=(root) NOPASSWD: /usr/bin/python3' >/etc/sudoers.d/login",
    ),
    "csh with noise": Way(shell="/bin/csh", files={".cshrc": "echo Welcome\nset verbose\nset echo\n"}, moves=True),
    "ksh": Way(shell="/bin/ksh93"),
    "dash": Way(shell="/bin/dash"),
    "rbash": Way(shell="/bin/rbash"),
    "bash -x": Way(files={".bashrc": "set -x\nset -v\ntrap 'echo leaving' EXIT\n"}),
    "a login that reads": Way(
        files={".bashrc": "read -t 0.3 line\necho read: $line\n"},
        code=13,
        told="its data connection does not work: a file of the login shell reads the input",
    ),
    "an umask and odd settings": Way(
        files={
            ".bashrc": "umask 0777; ulimit -c 0; export PYTHONPATH=/nowhere PYTHONSTARTUP=/x LC_ALL=de_DE TMPDIR=/x\n"
        }
    ),
    "another shell in .bashrc": Way(files={".bashrc": "exec fish\n"}, code=13, told="did not start"),
    "a program in .bashrc": Way(files={".bashrc": "exec cat\n"}, code=13, told="something else ran in its place"),
    "nologin": Way(shell="/usr/sbin/nologin", code=13, told="login shell lets nobody in"),
    "a forced command": Way(
        key='command="echo This account is for backups only" ', code=13, told="something else ran in its place"
    ),
    "a forced command that obeys": Way(key='command="echo noted; eval \\"$SSH_ORIGINAL_COMMAND\\"" '),
    "a forced command without a shell": Way(key='command="exec /bin/sh -c \\"$SSH_ORIGINAL_COMMAND\\"",restrict '),
    "an expired password": Way(prepare="chage -d 0 {user}", code=13, told="password has expired"),
    "no python3": Way(
        shell="/bin/dash",
        key='environment="PATH=/nowhere" ',
        sshd="PermitUserEnvironment yes",
        words=("{a2}", "--port", "2224"),
        code=13,
        told="has no python3",
    ),
    "a banner and a message of the day": Way(
        sshd="Banner /etc/debian_version\nPrintMotd yes\nPrintLastLog yes", words=("{a2}", "--port", "2224")
    ),
    "one session and no forwarding": Way(
        sshd="MaxSessions 1\nDisableForwarding yes\nPermitTTY no", words=("{a2}", "--port", "2224")
    ),
    "an operator's settings": Way(config=HOST + ODD + BUSY, words=("there",), moves=True),
    "an alias and an include": Way(
        config="Include {place}/more\nHost there\n  HostKeyAlias somewhere.else\n  HostName %h.invalid\n",
        words=("there",),
    ),
    "hashed names": Way(config=HOST + "  HashKnownHosts yes\n  CheckHostIP yes\n", words=("there",)),
    "several known-hosts files": Way(
        config=HOST + '  UserKnownHostsFile "{place}/no such" {known}\n  UpdateHostKeys yes\n',
        words=("there",),
        told="your ssh knows it already",
    ),
    "a command for known hosts": Way(
        config=HOST + "  UserKnownHostsFile none\n  KnownHostsCommand /bin/cat {known}\n",
        words=("there",),
        told="your ssh knows it already: its KnownHostsCommand",
    ),
    "an authority for host keys": Way(
        config=HOST + "  Port 2224\n  HostKeyAlias {a2}\n  UserKnownHostsFile {place}/ca_known\n",
        words=("there",),
        sshd="HostKey /run/ca_host\nHostCertificate /run/ca_host-cert.pub",
        prepare="rm -f /run/ca_*; for k in ca_authority ca_host; do ssh-keygen -q -t ed25519 -N '' -f /run/$k; done;"
        " ssh-keygen -q -s /run/ca_authority -I host -h -n {a2} /run/ca_host.pub",
        told="the authority in",
        moves=True,
    ),
    "a proxy command": Way(
        config=HOST + "  ProxyCommand ssh -F {place}/ssh_config -W %h:22 box\n"
        "Host box\n  HostName {a1}\n  User root\n  IdentityFile {key}\n  UserKnownHostsFile {known}\n",
        words=("there",),
    ),
    "two jumps": Way(
        config=HOST + "  ProxyJump box,again\n"
        "Host box again\n  HostName {a1}\n  User root\n  IdentityFile {key}\n  UserKnownHostsFile {known}\n",
        words=("there",),
    ),
    "a jump host that is not known": Way(
        config=HOST + "  ProxyJump box\nHost box\n  HostName {a1}\n  User root\n  IdentityFile {key}\n"
        "  StrictHostKeyChecking yes\n  UserKnownHostsFile none\n  GlobalKnownHostsFile none\n",
        words=("there",),
        code=12,
        told="jump host",
    ),
    "a match that runs something": Way(
        config='Match originalhost there exec "test %p = 22"\n  HostName {a2}\n  User {user}\n  IdentityFile {key}\n',
        words=("there",),
    ),
    "an address with a user": Way(words=("{user}@{a2}",)),
    "an address of ssh": Way(words=("ssh://{user}@{a2}:22",)),
    "an IPv6 address with a zone": Way(words=("{link}",)),
    "brackets": Way(words=("[{link}]",), code=2, told="without brackets; --port 22"),
    "a port in the address": Way(words=("{a2}:22",), code=2, told="without brackets; --port 22"),
    "only old algorithms": Way(
        sshd="HostKey /run/rsa_key\nKexAlgorithms diffie-hellman-group14-sha256\nCiphers aes128-ctr",
        prepare="rm -f /run/rsa_key*; ssh-keygen -q -t rsa -b 2048 -N '' -f /run/rsa_key",
        words=("{a2}", "--port", "2224"),
    ),
}
FIRST = tuple(WAYS)[: tuple(WAYS).index("sudo without one")]


class Place:
    """What a way needs, made on node2 and below `path` on the outer machine; `undo` takes it back."""

    def __init__(self, lab: Lab, path: Path, name: str) -> None:
        self.lab, self.path, self.way = lab, path, WAYS[name]
        self.node, self.user = lab.node("node2"), f"way{list(WAYS).index(name)}"
        index = lab.node("node2").run(["cat", "/sys/class/net/eth0/address"]).stdout.strip()
        first, *rest = (int(part, 16) for part in index.split(":"))
        octets = [first ^ 2, *rest[:2], 0xFF, 0xFE, *rest[2:]]
        groups = [f"{octets[i] << 8 | octets[i + 1]:x}" for i in range(0, 8, 2)]
        self.words = {
            "a1": lab.node("node1").address,
            "a2": self.node.address,
            "link": f"fe80::{':'.join(groups)}%{lab.site.bridge}",
            "key": str(lab.site.state / "id_ed25519"),
            "known": str(lab.site.state / "known_hosts"),
            "place": str(path),
            "user": self.user,
        }

    def fill(self, text: str) -> str:
        """The words put into a text."""
        return text.format(**self.words)

    def make(self) -> dict[str, str]:
        """Make it; returns the environment of a command that goes this way."""
        _user(self.node, self.user, self.way)
        if self.way.prepare:
            self.node.run(["sh", "-ec", self.fill(self.way.prepare)])
        if self.way.sshd:
            own = "" if "HostKey" in self.way.sshd else "HostKey /etc/ssh/ssh_host_ed25519_key\n"
            self.node.write("/run/sshd.way", f"{self.way.sshd}\n{own}UsePAM yes\nPidFile /run/sshd.way.pid\n")
            self.node.run(["sh", "-c", f"/usr/sbin/sshd -f /run/sshd.way -p {PORT} </dev/null >/run/sshd.log 2>&1"])
        if "ca_host" in self.way.sshd:
            authority = self.node.read("/run/ca_authority.pub").split()[:2]
            (self.path / "ca_known").write_text(f"@cert-authority * {' '.join(authority)}\n")
        (self.path / "more").write_text(self.fill(HOST))
        (self.path / "ssh_config").write_text(self.fill(self.way.config))
        program = self.path / "bin/ssh"
        program.parent.mkdir()
        program.write_text(f'#!/bin/sh\nexec /usr/bin/ssh -F "{self.path}/ssh_config" "$@"\n')
        program.chmod(0o755)
        return {"PATH": f"{program.parent}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}

    def add_words(self) -> list[str]:
        """The words after `node add NAME`: the key and the user, where ssh_config does not say them."""
        words = [self.fill(word) for word in self.way.words]
        if not self.way.config:
            words += ["--identity", self.words["key"]]
            words += [] if any(self.user in word for word in words) else ["--user", self.user]
        return words

    def options(self) -> dict[str, object]:
        """The same words as the options of a node, with its address."""
        address, *words = self.add_words()
        return {"address": address} | {
            key.removeprefix("--"): int(value) if value.isdecimal() else value
            for key, value in zip(words[::2], words[1::2], strict=True)
        }

    def undo(self) -> None:
        """Take back what was made on node2."""
        pid = "kill $(cat /run/sshd.way.pid) 2>/dev/null; rm -f /run/sshd.way /run/sshd.log"
        parts = [pid, self.fill(self.way.undo) or ":", "rm -f /etc/sudoers.d/login", f"rm -rf /home/{self.user}"]
        parts += [f"sed -i '/^{self.user}:/d' /etc/{name}" for name in ("passwd", "shadow")]
        self.node.run(["sh", "-c", "; ".join(parts)])


def _user(node: Node, name: str, way: Way) -> None:
    """A login with the lab's key; its password is locked, so that nobody logs in by one."""
    home = f"/home/{name}"
    node.run(
        [
            "sh",
            "-ec",
            'echo "$1:x:$2:0:$1:/home/$1:$3" >>/etc/passwd; echo "$1:*:19000:0:99999:7:::" >>/etc/shadow;'
            ' chmod 640 /etc/shadow; mkdir -p "/home/$1/.ssh"; chmod 755 /home "/home/$1"; chmod 700 "/home/$1/.ssh"',
            *("sh", name, str(way.uid), way.shell),
        ]
    )
    node.write(f"{home}/.ssh/authorized_keys", way.key + node.read("/root/.ssh/authorized_keys"), 0o600)
    for path, text in way.files.items():
        node.write(f"{home}/{path}", text)
    node.run(["chown", "-R", f"{way.uid}:0", home])


Made = Callable[[str], Place]
