"""What is on a device now, and the few texts that change it; each text is one step that is whole or not there."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from reberth_android import files
from reberth_android.adb import Adb
from reberth_hooks import ReberthError, RefusedError, UsageError

STAT = 'for p in "$@"; do if [ -e "$p" ]; then stat -c "%a %U %F" "$p"; else echo "- - absent"; fi; done'
READ = '[ ! -f "$1" ] || cat "$1"'
KEEP = """\
kept=$1; shift
rm -rf "$kept.part"; mkdir "$kept.part"; n=0
for path in "$@"; do
    n=$((n + 1))
    if [ -L "$path" ]; then echo "$path is a link: what it leads to is not ours to change" >&2; exit 3; fi
    if [ -d "$path" ]; then kind=dir
    elif [ -f "$path" ]; then kind=file; cp -p "$path" "$kept.part/$n"
    elif [ -e "$path" ]; then echo "$path is neither a file nor a directory" >&2; exit 3
    else echo "absent - - - $path"; continue; fi
    echo "$kind $(stat -c '%a %u %g' "$path") $path"
done >"$kept.part/manifest"
flush "$kept.part"/*
mv "$kept.part" "$kept"
"""
UNDO = """\
kept=$1; n=0
while read -r kind mode uid gid path; do
    n=$((n + 1))
    rm -f "$path.reberth" "$path.reberth.pub"
    case $kind in
    file)
        mkdir -p "${path%/*}"
        cp -p "$kept/$n" "$path.reberth"
        chown "$uid:$gid" "$path.reberth"; chmod "$mode" "$path.reberth"; flush "$path.reberth"
        mv -f "$path.reberth" "$path" ;;
    dir) mkdir -p "$path"; chown "$uid:$gid" "$path"; chmod "$mode" "$path" ;;
    absent)
        if [ ! -d "$path" ]; then rm -f "$path"
        elif ! rmdir "$path" 2>/dev/null; then echo "left: $path (there is something of yours in it)"; fi ;;
    esac
done <"$kept/manifest"
mv "$kept" "$kept.gone"
"""
SWEEP = 'rm -rf "$1.part" "$1.gone"'
MAKE_DIR = 'mkdir -p "$1"; chmod "$2" "$1"; chown "$3" "$1"'
MAKE_KEY = """\
rm -f "$1.reberth" "$1.reberth.pub"
ssh-keygen -q -t ed25519 -N '' -C '' -f "$1.reberth"
chmod 600 "$1.reberth"; chmod 644 "$1.reberth.pub"; chown shell:shell "$1.reberth" "$1.reberth.pub"
mv -f "$1.reberth.pub" "$1.pub"; mv -f "$1.reberth" "$1"
"""
SET_MODE = 'chmod "$2" "$1"; chown "$3" "$1"'
WRITE = """\
cat >"$1.reberth"
if [ "$(sha256sum <"$1.reberth" | cut -c 1-64)" != "$4" ]; then echo "not all of it arrived" >&2; exit 4; fi
chmod "$2" "$1.reberth"; chown "$3" "$1.reberth"; flush "$1.reberth"; mv -f "$1.reberth" "$1"
"""
# The listener whose pid is in the file, if it is an sshd; a stale file names some other process, or none.
RUNNING = """\
pid=$(cat "$1" 2>/dev/null) || pid=none
if grep -qs sshd "/proc/$pid/cmdline"; then echo "$pid"; fi
"""
START = 'setsid sh "$1" </dev/null >/dev/null 2>&1 &'
STOP = 'kill "$1"; for i in 1 2 3 4 5 6 7 8 9 10; do [ -d "/proc/$1" ] || break; sleep 0.2; done; rm -f "$2"'
BOOT = """\
found=unknown
for place in /system/etc/init.d /system/bin/sysinit /system/etc/init /vendor/etc/init /init.rc; do
    [ -r "$place" ] || continue
    [ $found = yes ] || found=no
    if grep -rqs userinit "$place"; then found=yes; fi
done
echo $found
"""
SHELL = "shell:shell"


@dataclass(frozen=True, slots=True)
class Entry:
    """One path of the device: octal mode, owner's name and kind (`regular file`, `directory`, `absent`)."""

    mode: str = "-"
    owner: str = "-"
    kind: str = "absent"

    @property
    def there(self) -> bool:
        """Tell whether there is anything."""
        return self.kind != "absent"

    def is_as(self, mode: str, owner: str = "shell") -> bool:
        """Tell whether it is there with this mode and owner."""
        return self.there and self.mode == mode and self.owner == owner


@dataclass(frozen=True, slots=True)
class State:
    """What setup found: entries by path, texts by path (empty: not there), the keeper's manifest."""

    entries: dict[str, Entry] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    kept: bool = False


def look(adb: Adb) -> State:
    """Read everything that setup and status judge; changes nothing."""
    paths = [*files.TOUCHED, files.DEVICE_SCRIPT, files.KEPT_DIR]
    lines = adb.run(STAT, *paths).splitlines()
    entries = {path: Entry(*line.split(" ", 2)) for path, line in zip(paths, lines, strict=True)}
    readable = (files.AUTHORIZED_KEYS, files.SSHD_CONFIG, files.START_SCRIPT, files.DEVICE_SCRIPT)
    texts = {path: adb.run(READ, path) if entries[path].there else "" for path in readable}
    pub = f"{files.HOST_KEY}.pub"
    texts[pub] = adb.run(READ, pub) if entries[pub].there else ""
    return State(entries, texts, entries[files.KEPT_DIR].there)


def require_lineage(adb: Adb) -> None:
    """RefusedError unless the device has LineageOS's own ssh; needs no root."""
    lines = adb.run(STAT, files.DEVICE_SCRIPT, "/data/local", "/system/bin/ssh-keygen").splitlines()
    kinds = [Entry(*line.split(" ", 2)).kind for line in lines]
    if kinds[0] == "absent" or kinds[2] == "absent":
        text = f"device {adb.serial!a} has no {files.DEVICE_SCRIPT}: it is not a LineageOS with its own ssh"
        raise RefusedError(text, hint="another way in: an ssh server of your choice there, then reberth node add")
    if kinds[1] == "absent":
        raise RefusedError(f"device {adb.serial!a} has no /data/local", hint="is its storage decrypted? unlock it once")


def require_set_up(adb: Adb) -> None:
    """UsageError where there is no start script of setup's; needs no root."""
    if adb.run(STAT, files.START_SCRIPT).endswith("absent\n"):
        raise UsageError(f"device {adb.serial!a} is not set up", hint="reberth android setup")


def write(adb: Adb, path: str, text: str, mode: str, owner: str = SHELL) -> None:
    """Put a text into a file in one step; the old one stays until the new one is complete."""
    digest = hashlib.sha256(text.encode()).hexdigest()
    adb.run(WRITE, path, mode, owner, digest, stdin=text)


def running_pid(adb: Adb) -> int:
    """Return the pid of the sshd that setup's script has started, 0 when none runs."""
    said = adb.run(RUNNING, files.PID_FILE).strip()
    return int(said) if said.isdecimal() else 0


def start(adb: Adb, tries: int = 60) -> int:
    """Run the start script and wait until its sshd has written its pid; answers it."""
    adb.run(START, files.START_SCRIPT)
    for _ in range(tries):
        pid = running_pid(adb)
        if pid:
            return pid
        adb.run("sleep 0.1")
    text = f"sshd does not start on device {adb.serial!a}"
    hint = f"run it by hand to see why: adb shell sh -x {files.START_SCRIPT}"
    raise ReberthError(text, hint=hint)


def stop(adb: Adb) -> bool:
    """End that sshd; False when none ran. Sessions that are open end by themselves."""
    pid = running_pid(adb)
    if pid:
        adb.run(STOP, str(pid), files.PID_FILE)
    return bool(pid)


def starts_at_boot(adb: Adb) -> str:
    """Tell whether the device's init runs what lies in userinit.d: `yes`, `no` or `unknown`, by its own boot
    scripts.
    """
    return adb.run(BOOT).strip()
