"""What the tools say when they fail, and what it means: one table, first match in the order of the log's lines.

`pattern` is searched in one line of a log; its named groups fill `cause` and `remedy`. Patterns with a recorded log in
tests/fixtures/logs were tried; the others are messages of criu, runc and LXD as their users report them.
"""

from __future__ import annotations

from dataclasses import dataclass

from reberth_hooks.criu.objects import NO_IO_URING


@dataclass(frozen=True, slots=True)
class Rule:
    """One message: a stable id, how to know it, the cause in plain words, and what to do."""

    id: str
    pattern: str
    cause: str
    remedy: str


CLOSE = "close it in the workload, or stop the part of it that needs it"
SAME_FILES = "put the same file on the target; reberth check and the preflight compare them before anything is frozen"
DUMP = (
    Rule("io-uring", r"send_fds failed \(-22\)|io_uring", "it uses io_uring", NO_IO_URING),
    Rule(
        "unix-in-flight",
        r"Non-empty write queue on an in-flight socket",
        "a connection to one of its unix sockets waits to be accepted, with words in it",
        "let the server accept it, then move again",
    ),
    Rule("hugetlb", r"path=/anon_hugepage|hugetlb", "it maps huge pages", "run it without huge pages"),
    Rule(
        "memory-file",
        r"Can't lookup mount=\d+ for fd=\S+ path=/(?P<path>memfd:\S*|secretmem)",
        "it holds memory that no mount shows ({path}): huge pages or secret memory behind a descriptor",
        CLOSE,
    ),
    Rule(
        "outside-file",
        r"Can't lookup mount=\d+ for fd=(?P<fd>\S+) path=(?P<path>.+)",
        "its descriptor {fd} leads out of its mounts: {path}",
        "start it with output to a file of its own or to a pipe; close POSIX queues and files of other mounts",
    ),
    Rule("tun", r"tun: (?P<what>.*)", "it holds a tun device: {what}", "move it in a container with its own network"),
    Rule(
        "nested",
        r"Can't dump nested (?P<kind>\w+) namespace for (?P<pid>\d+)",
        "its process {pid} is in a {kind} namespace of its own",
        "stop what runs in nested namespaces (sandboxes, containers inside)",
    ),
    Rule(
        "traced-or-zombie",
        r"zombie (?P<pid>\d+) .*found while seizing|[Aa]lready traced|ptrace.*(?P<what>Operation not permitted)",
        "a process could not be seized: somebody else traces it (a debugger, strace)",
        "detach the debugger",
    ),
    Rule(
        "socket-family",
        r"Unknown socket collected \(family (?P<family>\d+)\)",
        "it holds a socket of a family that CRIU does not know (address family {family}; 40 is vsock)",
        CLOSE,
    ),
    Rule(
        "socket-protocol",
        r"inet: Unsupported (?:proto|type) (?P<proto>\S+)",
        "it holds a socket of a protocol that CRIU does not know ({proto}; 262 is MPTCP, 132 is SCTP)",
        "run it with plain TCP (Go programs: GODEBUG=multipathtcp=0)",
    ),
    Rule(
        "tcp-unaccepted",
        r"inet: In-flight connection",
        "a connection waits to be accepted by its server",
        "let the server accept it and move again, or --tcp-close drops it",
    ),
    Rule(
        "tcp-established",
        r"Connected TCP socket, consider using --tcp-established",
        "it has an established TCP connection",
        "--tcp-established keeps connections if the address exists on the target; --tcp-close ends them",
    ),
    Rule(
        "unix-outside",
        r"unix: External socket is used|unix: .*[Rr]unaway|Can't dump half of stream unix connection",
        "one of its unix sockets is connected to a process outside",
        "end the connection (logging, D-Bus, a database's socket), or move both ends in one container",
    ),
    Rule(
        "ghost-limit",
        r"Can't dump ghost file (?P<path>.+) of (?P<size>\d+) size",
        "it holds the deleted file {path} of {size} bytes open, more than CRIU puts into images here",
        "let it close or truncate the file",
    ),
    Rule(
        "link-remap",
        r"Can't create link remap for (?P<path>.+)\. Use",
        "it holds {path} open, whose name was deleted while the file has another",
        "let it close the file",
    ),
    Rule(
        "terminal",
        r"tty: .*(?:without correspond|index|peer)|tty: .*outside of|Found dangling tty",
        "it is on a terminal whose other end is outside",
        "start it without one: setsid CMD </dev/null >LOG 2>&1",
    ),
    Rule(
        "session",
        r"root process (?P<pid>\d+) is not a session leader|[Ss]ession leader of \d+.* outside|"
        r"process with sid .* outside",
        "the leader of its session is outside of what moves",
        "name the session's leader, or start it with setsid",
    ),
    Rule(
        "rlimit",
        r"Can't get rlimit \d+: Operation not permitted",
        "root lacks CAP_SYS_RESOURCE there, which CRIU needs for processes of other users",
        "run where root has this capability (not in a restricted container)",
    ),
    Rule(
        "sysv-shm",
        r"Task (?P<pid>\d+) with SysVIPC shmem map",
        "its process {pid} uses SysV shared memory of the node",
        "run it in an ipc namespace of its own (a container)",
    ),
    Rule(
        "watch",
        r"fsnotify: \s*Can't dump that handle|irmap.*[Cc]an't|Can't open file handle",
        "it watches files (inotify) on a filesystem whose handles CRIU cannot follow, as overlay",
        "end the watches, or run it from another filesystem",
    ),
    Rule(
        "descriptor",
        r"Can't dump file (?P<fd>\d+) of that type \[\w+\] \((?P<what>.+)\)",
        "its descriptor {fd} is of a kind that CRIU does not know ({what})",
        CLOSE,
    ),
    Rule(
        "pidfd",
        r"pidfd pid (?P<pid>\d+) is not a part of process tree",
        "it holds a pidfd of process {pid}, which stays",
        CLOSE,
    ),
    Rule(
        "shared-vm",
        r"Can't make VM id for (?P<pid>\d+)",
        "its process {pid} shares the memory of its parent (vfork, CLONE_VM)",
        "move again when it has started its program",
    ),
    Rule(
        "dead-leader",
        r"Zombies with threads are not supported",
        "a process's first thread has ended while others run",
        "restart the workload so that its first thread stays",
    ),
    Rule(
        "no-process",
        r"[Nn]o such (?:process|pid)\b|Can't (?:open|read).*/proc/(?P<pid>\d+)|Can't stat .*/proc",
        "there is no such process any more",
        "reberth ls",
    ),
    Rule(
        "soft-dirty",
        r"[Dd]irty track(?:ing|er).*(?:not|isn't)|Mem dirty tracking is not|Tracking memory is not available",
        "this kernel cannot track changed memory (soft-dirty)",
        "use a mode without rounds: --mode stop-and-copy or post-copy",
    ),
    Rule(
        "cgroup",
        r"cg: (?P<what>.*(?:[Ff]ailed|[Cc]an't|[Uu]nable).*)",
        "the cgroup could not be handled: {what}",
        "is cgroup v2 mounted, and does nobody else manage the workload's cgroup?",
    ),
    Rule(
        "freezer",
        r"(?:[Uu]nable to freeze|freezer|Timeout reached).*",
        "its tasks could not be frozen in time",
        "a task hangs in the kernel (state D, a dead network filesystem): see ps, and try again",
    ),
)
RESTORE = (
    Rule(
        "missing-file",
        r"Can't open file (?P<path>.+?) on restore: (?P<why>.+)",
        "the target has not got /{path} ({why})",
        SAME_FILES,
    ),
    Rule(
        "other-size",
        r"File (?P<path>.+) has bad size (?P<there>\d+) \(expect (?P<here>\d+)\)",
        "/{path} has {there} bytes on the target and {here} on the source",
        SAME_FILES,
    ),
    Rule(
        "other-mode",
        r"File (?P<path>.+) has bad mode (?P<there>\d+) \(expect (?P<here>\d+)\)",
        "/{path} has mode {there} on the target and {here} on the source",
        SAME_FILES,
    ),
    Rule(
        "other-build",
        r"File (?P<path>.+) has bad build-ID",
        "/{path} on the target is another build than on the source",
        "install the same version of the package on both nodes",
    ),
    Rule(
        "sub-namespace",
        r"Can't restore sub-task in NS \(cflags (?P<flags>\w+)\)",
        "one of its children was in namespaces of its own (flags {flags})",
        "stop what runs in nested namespaces",
    ),
    Rule(
        "scheduler",
        r"Inconsistent sched params received",
        "a task has a scheduler that CRIU cannot restore (SCHED_DEADLINE)",
        "choose another one with chrt",
    ),
    Rule(
        "pid-taken",
        r"(?:Can't fork for|Pid|pid) (?P<pid>\d+)(?:: File exists|.*(?:do not match|mismatch|already))|"
        r"Unexpected pid.*exp.*(?P<other>\d+)",
        "its process number is taken on the target",
        "end that process there, or move at another time",
    ),
    Rule(
        "address",
        r"inet: Can't bind.*Cannot assign requested address|bind.*Cannot assign",
        "an address of its sockets does not exist on the target",
        "take the address along: --move-address",
    ),
    Rule(
        "port-taken",
        r"inet: Can't bind.*Address already in use|bind.*Address already in use",
        "a port it listens on is taken on the target",
        "end what uses it there",
    ),
    Rule(
        "network",
        r"Network is unreachable|No route to host",
        "the target's network namespace has no way to the peer of a connection",
        "are loopback and the addresses up there?",
    ),
    Rule(
        "cpu",
        r"cpu: (?P<what>.*(?:not|mismatch|unsupported).*)",
        "the target's processor lacks something: {what}",
        "move to a machine with at least the same processor features",
    ),
    Rule(
        "image",
        r"(?:Can't open|Unable to open|Can't read) (?:file |image )?(?P<path>\S+\.img)|Unexpected EOF|"
        r"Unexpected read|Read \d+ bytes while \d+ expected|Magic doesn't match for (?P<name>\S+)|"
        r"[Ii]mage.*(?:corrupt|[Mm]agic|mismatch)|[Uu]nknown magic",
        "an image is missing or damaged",
        "checkpoint again: images that reberth carried are checked before criu reads them",
    ),
    Rule(
        "no-memory",
        r"Cannot allocate memory|[Oo]ut of memory",
        "the node ran out of memory",
        "free memory there; images need as much as the workload",
    ),
    Rule(
        "mount",
        r"mnt: (?P<what>.*(?:[Cc]an't|[Ff]ailed|[Uu]nable).*)",
        "a mount could not be restored: {what}",
        "make the mount's source on the target as it is on the source",
    ),
    Rule(
        "uffd",
        r"uffd: (?P<what>.*)",
        "lazy restore failed: {what}",
        "--no-lazy-restore reads all memory first",
    ),
)
TOOLS = (
    Rule(
        "no-space",
        r"No space left on device",
        "a disk or tmpfs is full",
        "free space where images or files are kept",
    ),
    Rule("image-dir", r"Can't open dir (?P<path>.+): (?P<why>.+)", "{path} cannot be opened: {why}", "does it exist?"),
    Rule(
        "option",
        r"(?:unrecognized|unknown|invalid) option.*|flag provided but not defined: (?P<flag>\S+)",
        "this version of the tool does not know an option",
        "install a newer version: reberth check NODE shows what is there",
    ),
    Rule(
        "nft",
        r"nftables|Can't (?:un)?lock network|net: .*iptables.*",
        "CRIU could not lock the network",
        "is criu built with nftables, and are nft tables allowed there?",
    ),
    Rule(
        "runc-exists",
        r"container with (?:given )?[Ii][Dd].*already exists|container with id exists",
        "a container of this name exists there",
        "move to another name: NODE:OTHERNAME",
    ),
    Rule(
        "runc-missing",
        r"container does not exist|container \S+ does not exist",
        "runc knows no container of this name",
        "reberth ls NODE",
    ),
    Rule(
        "runc-stopped",
        r"cannot checkpoint (?:a )?stopped container|container not running",
        "the container does not run",
        "start it first",
    ),
    Rule(
        "runc-config",
        r"config\.json.*no such file|JSON specification file .* not found",
        "the bundle has no config.json",
        "is the bundle's path right?",
    ),
    Rule(
        "runc-cgroups-mode",
        r"[Ii]nvalid manage-?\s?cgroups mode",
        "this runc does not know that mode for cgroups (`ignore` came with 1.2)",
        "install a newer runc",
    ),
    Rule(
        "runc-no-criu",
        r'exec: "criu": executable file not found|CRIU (?:version )?.*(?:not found|must be)',
        "criu is missing or too old there",
        "install criu",
    ),
    Rule(
        "lxd-no-criu",
        r"[Ll]ive migration (?:of containers )?(?:is )?not supported|Unable to perform container live migration|"
        r"CRIU isn't installed",
        "this LXD cannot move running containers (removed in 6.6; before that it needs criu on both servers)",
        "use LXD 5.0 or 5.21 with criu, or Incus; or stop the container and move it",
    ),
    Rule(
        "root",
        r"(?:need|must be|requires?).*root|CAP_\w+.*(?:missing|required)|[Ii]nsufficient privileges",
        "the tool needs root there",
        "set become = sudo for this node",
    ),
)
RULES = DUMP + RESTORE + TOOLS
