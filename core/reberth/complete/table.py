"""Every command with its arguments and options; made by `make completions`, compared by a test. Do not edit.

Path of the command -> (help, words of the arguments, {option: (word of its value or empty, repeatable, help)}). An
argument that may be missing stands in brackets, one that takes many values ends in `...`; a group has none.
"""

from __future__ import annotations

Command = tuple[str, tuple[str, ...], dict[str, tuple[str, bool, str]]]
COMMANDS: dict[str, Command] = {
    "": (
        "Moves running containers and processes between Linux nodes, and never loses them.",
        (),
        {
            "--version": ("", False, "Print the version."),
            "--debug": ("", False, "Log what is done, and show tracebacks."),
            "--help": ("", False, "Show the help."),
        },
    ),
    "move": (
        "Move a running workload to another node.",
        ("SOURCE", "TARGET"),
        {
            "--mode": ("MODE", False, "auto, or one mode that the backend offers."),
            "--backend": ("NAME", False, "The backend, if the name alone is not clear."),
            "--transport": ("NAME", True, "Carry the data by this; may be repeated."),
            "--tcp-established": ("", False, "Keep open TCP connections."),
            "--tcp-close": ("", False, "Restore open TCP connections as closed."),
            "--move-address": ("ADDR", False, "Take this address along, ADDR or ADDR/PREFIX."),
            "--timeout": ("TIME", False, "Roll back if not decided by then: 90s, 5m."),
            "--keep-images": ("", False, "Keep the images after success."),
            "--skip": ("CHECK", True, "Go on though this check fails; may be repeated."),
            "--verify": (
                "PROBE",
                True,
                "Give the source up only if this succeeds on the target: exec:CMD, tcp:PORT, http://..., processes.",
            ),
            "--on-failure": (
                "HOW",
                False,
                "hold or rollback: what to do when the copy failed after it was permitted to run.",
            ),
            "--no-lazy-restore": ("", False, "Read all memory before the copy runs."),
            "--dry-run": ("", False, "As `reberth plan`."),
            "-n": ("", False, "As `reberth plan`."),
            "--json": ("", False, "Print one JSON document to stdout."),
            "--quiet": ("", False, "No plan and no progress on stderr."),
            "-q": ("", False, "No plan and no progress on stderr."),
            "--yes": ("", False, "Agree to losses that were announced."),
            "--help": ("", False, "Show the help."),
        },
    ),
    "plan": (
        "Say whether and how a move would work, and touch nothing.",
        ("SOURCE", "TARGET"),
        {
            "--mode": ("MODE", False, "auto, or one mode that the backend offers."),
            "--backend": ("NAME", False, "The backend, if the name alone is not clear."),
            "--transport": ("NAME", True, "Carry the data by this; may be repeated."),
            "--tcp-established": ("", False, "Keep open TCP connections."),
            "--tcp-close": ("", False, "Restore open TCP connections as closed."),
            "--move-address": ("ADDR", False, "Take this address along, ADDR or ADDR/PREFIX."),
            "--timeout": ("TIME", False, "Roll back if not decided by then: 90s, 5m."),
            "--keep-images": ("", False, "Keep the images after success."),
            "--skip": ("CHECK", True, "Go on though this check fails; may be repeated."),
            "--verify": (
                "PROBE",
                True,
                "Give the source up only if this succeeds on the target: exec:CMD, tcp:PORT, http://..., processes.",
            ),
            "--on-failure": (
                "HOW",
                False,
                "hold or rollback: what to do when the copy failed after it was permitted to run.",
            ),
            "--no-lazy-restore": ("", False, "Read all memory before the copy runs."),
            "--json": ("", False, "Print one JSON document to stdout."),
            "--quiet": ("", False, "No plan and no progress on stderr."),
            "-q": ("", False, "No plan and no progress on stderr."),
            "--yes": ("", False, "Agree to losses that were announced."),
            "--help": ("", False, "Show the help."),
        },
    ),
    "ls": (
        "List the workloads of the nodes.",
        ("[NODE]",),
        {
            "--json": ("", False, "Print one JSON document to stdout."),
            "--quiet": ("", False, "No plan and no progress on stderr."),
            "-q": ("", False, "No plan and no progress on stderr."),
            "--help": ("", False, "Show the help."),
        },
    ),
    "check": (
        "Check a node, or a pair of nodes, before any move.",
        ("NODE", "[NODE]"),
        {
            "--json": ("", False, "Print one JSON document to stdout."),
            "--quiet": ("", False, "No plan and no progress on stderr."),
            "-q": ("", False, "No plan and no progress on stderr."),
            "--help": ("", False, "Show the help."),
        },
    ),
    "explain": (
        "Say what a log of CRIU, runc or LXD means.",
        ("LOGFILE",),
        {"--json": ("", False, "Print one JSON document to stdout."), "--help": ("", False, "Show the help.")},
    ),
    "checkpoint": (
        "Write a workload into a directory and stop it.",
        ("SOURCE", "DIR"),
        {
            "--backend": ("NAME", False, "The backend, if the name alone is not clear."),
            "--tcp-established": ("", False, "Keep open TCP connections."),
            "--tcp-close": ("", False, "Restore open TCP connections as closed."),
            "--timeout": ("TIME", False, "Roll back if not decided by then: 90s, 5m."),
            "--skip": ("CHECK", True, "Go on though this check fails; may be repeated."),
            "--json": ("", False, "Print one JSON document to stdout."),
            "--quiet": ("", False, "No plan and no progress on stderr."),
            "-q": ("", False, "No plan and no progress on stderr."),
            "--yes": ("", False, "Agree to losses that were announced."),
            "--help": ("", False, "Show the help."),
        },
    ),
    "restore": (
        "Start a workload from a directory on a node.",
        ("DIR", "TARGET"),
        {
            "--tcp-established": ("", False, "Keep open TCP connections."),
            "--tcp-close": ("", False, "Restore open TCP connections as closed."),
            "--timeout": ("TIME", False, "Roll back if not decided by then: 90s, 5m."),
            "--skip": ("CHECK", True, "Go on though this check fails; may be repeated."),
            "--no-lazy-restore": ("", False, "Read all memory before the copy runs."),
            "--json": ("", False, "Print one JSON document to stdout."),
            "--quiet": ("", False, "No plan and no progress on stderr."),
            "-q": ("", False, "No plan and no progress on stderr."),
            "--yes": ("", False, "Agree to losses that were announced."),
            "--help": ("", False, "Show the help."),
        },
    ),
    "status": (
        "Show the migrations that are open.",
        ("[ID]",),
        {"--json": ("", False, "Print one JSON document to stdout."), "--help": ("", False, "Show the help.")},
    ),
    "abort": (
        "Stop an open migration; the source runs on.",
        ("ID",),
        {"--json": ("", False, "Print one JSON document to stdout."), "--help": ("", False, "Show the help.")},
    ),
    "recover": (
        "Bring interrupted migrations to their end.",
        ("[ID]",),
        {
            "--dry-run": ("", False, "Say what would be done, do nothing."),
            "-n": ("", False, "Say what would be done, do nothing."),
            "--forward": ("", False, "Let the target run, if that is safe."),
            "--rollback": ("", False, "Let the source run, if that is safe."),
            "--json": ("", False, "Print one JSON document to stdout."),
            "--quiet": ("", False, "No plan and no progress on stderr."),
            "-q": ("", False, "No plan and no progress on stderr."),
            "--yes": ("", False, "Agree to losses that were announced."),
            "--help": ("", False, "Show the help."),
        },
    ),
    "history": (
        "List past migrations.",
        (),
        {
            "--limit": ("LIMIT", False, "At most so many, newest first."),
            "--json": ("", False, "Print one JSON document to stdout."),
            "--help": ("", False, "Show the help."),
        },
    ),
    "history prune": (
        "Remove the journals, reports and logs of old migrations, and images that were kept on the nodes.",
        (),
        {
            "--keep": ("KEEP", False, "Never remove the newest so many."),
            "--older-than": ("DAYS", False, "Only those older than this."),
            "--dry-run": ("", False, "Say what would go, and touch nothing."),
            "-n": ("", False, "Say what would go, and touch nothing."),
            "--json": ("", False, "Print one JSON document to stdout."),
            "--help": ("", False, "Show the help."),
        },
    ),
    "report": (
        "Show the report of one migration.",
        ("ID",),
        {"--json": ("", False, "Print one JSON document to stdout."), "--help": ("", False, "Show the help.")},
    ),
    "node": ("Manage the nodes of the inventory.", (), {"--help": ("", False, "Show the help.")}),
    "node add": (
        "Add a node: pin its host key, probe it, enable what is usable there.",
        ("NAME", "[ADDRESS]"),
        {
            "--address": ("ADDRESS", False, "Host name, address, or a Host of ssh_config."),
            "--user": ("USER", False, "Log in as this user."),
            "--port": ("PORT", False, "The port of sshd."),
            "--identity": ("FILE", False, "The private key."),
            "--become": ("HOW", False, "Become root by: none or sudo."),
            "--fingerprint": ("SHA256:...", False, "The host key that is expected."),
            "--yes": ("", False, "Trust the key that the node shows."),
            "--json": ("", False, "Print one JSON document to stdout."),
            "--help": ("", False, "Show the help."),
        },
    ),
    "node rm": (
        "Remove a node from the inventory, with its pinned key.",
        ("NAME",),
        {"--help": ("", False, "Show the help.")},
    ),
    "node ls": (
        "List the nodes.",
        (),
        {"--json": ("", False, "Print one JSON document to stdout."), "--help": ("", False, "Show the help.")},
    ),
    "node show": (
        "Show one node as it is configured.",
        ("NAME",),
        {"--json": ("", False, "Print one JSON document to stdout."), "--help": ("", False, "Show the help.")},
    ),
    "node enable": (
        "Enable a plugin on a node; only enabled plugins are ever called for it.",
        ("NAME", "PLUGIN"),
        {"--help": ("", False, "Show the help.")},
    ),
    "node disable": ("Disable a plugin on a node.", ("NAME", "PLUGIN"), {"--help": ("", False, "Show the help.")}),
    "plugin": ("Show the plugins.", (), {"--help": ("", False, "Show the help.")}),
    "plugin ls": (
        "List the installed plugins; a broken one is listed with the reason.",
        (),
        {"--json": ("", False, "Print one JSON document to stdout."), "--help": ("", False, "Show the help.")},
    ),
    "plugin show": (
        "Show one plugin: its roles, modes, tools and options.",
        ("PLUGIN",),
        {"--json": ("", False, "Print one JSON document to stdout."), "--help": ("", False, "Show the help.")},
    ),
    "completion": ("Print the completion script of a shell.", ("SHELL",), {"--help": ("", False, "Show the help.")}),
    "shell-init": (
        "Print functions for `runc migrate ID NODE:`, to be evaluated.",
        ("SHELL",),
        {"--help": ("", False, "Show the help.")},
    ),
    "android": (
        "Set a LineageOS phone up as a node, over adb, and take it back again.",
        (),
        {"--help": ("", False, "Show the help.")},
    ),
    "android setup": (
        "Let a phone's own sshd start with your public key, and add it to the inventory.",
        ("[SERIAL]",),
        {
            "--key": ("FILE.PUB", False, "The public key."),
            "--name": ("NAME", False, "The node's name."),
            "--address": ("ADDRESS", False, "Listen on this address of the phone, or `any`. Else only over USB."),
            "--reach": ("HOST", False, "With --address any: where the phone is found."),
            "--port": ("PORT", False, "The port of sshd."),
            "--dry-run": ("", False, "Print the steps and do nothing."),
            "--yes": ("", False, "Do not ask."),
            "--help": ("", False, "Show the help."),
        },
    ),
    "android start": (
        "Start the phone's sshd, and open the way over USB again where that is used.",
        ("[PHONE]",),
        {"--help": ("", False, "Show the help.")},
    ),
    "android stop": (
        "End the phone's sshd, and close the way over USB; at its next start it may run again.",
        ("[PHONE]",),
        {"--help": ("", False, "Show the help.")},
    ),
    "android status": (
        "Tell what runs, where it listens, who can log in, and what is open further than it should be.",
        ("[PHONE]",),
        {"--json": ("", False, "Print JSON."), "--help": ("", False, "Show the help.")},
    ),
    "android undo": (
        "Put the phone back as it was before the first setup, and take it out of the inventory.",
        ("[PHONE]",),
        {"--yes": ("", False, "Do not ask."), "--help": ("", False, "Show the help.")},
    ),
    "lab": (
        "Two or more nodes on this machine, to try things with (needs root; REBERTH_LAB_NAME gives you one of "
        "your own).",
        (),
        {"--help": ("", False, "Show the help.")},
    ),
    "lab up": (
        "Start the nodes; what runs already stays, and gets the present code of reberth.",
        (),
        {
            "--nodes": ("NODES", False, "How many nodes shall run."),
            "--kind": (
                "KIND",
                False,
                "namespace (default): this machine's kernel, native speed; vm: kernels of their own, by "
                "QEMU, slow; android: two phones beside two nodes of namespaces.",
            ),
            "--install": ("", False, "Install debootstrap (vm: QEMU) by apt if it is missing."),
            "--rebuild": ("", False, "Make the root filesystem anew."),
            "--help": ("", False, "Show the help."),
        },
    ),
    "lab down": (
        "End the nodes and remove every trace but the cached root filesystem.",
        (),
        {"--help": ("", False, "Show the help.")},
    ),
    "lab status": (
        "Tell what is up, and what a killed run has left.",
        (),
        {"--json": ("", False, "Print JSON."), "--help": ("", False, "Show the help.")},
    ),
    "lab refresh": (
        "Copy the present code of reberth into the nodes that run.",
        (),
        {"--help": ("", False, "Show the help.")},
    ),
    "lab demo": (
        "Move a Redis under load from node1 to node2 and prove that no acknowledged write is lost.",
        (),
        {
            "--json": ("", False, "Print JSON."),
            "--plain": ("", False, "Move by dump, rsync and restore instead, to compare."),
            "--one-connection": ("", False, "Move the service's address too: the client keeps its connection."),
            "--help": ("", False, "Show the help."),
        },
    ),
    "lab ssh": (
        "Log in to a node, or run a command there.",
        ("NODE", "[COMMAND...]"),
        {"--help": ("", False, "Show the help.")},
    ),
}
