"""Runs inside a node: dumps a process, splits its image into two rounds, joins them, and restores it lazily.

So CRIU's part of decision 018 is tried on every kernel, also on those that track no written pages. Argument: where the
packages of reberth are. Prints what the process says of its own pages afterwards: `wrong 0`.
"""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys
import time

WORK = "/run/split"
MIB = 32
PROCESS = """
import mmap, os, sys, time
work, size = sys.argv[1], int(sys.argv[2])
memory = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
for at in range(0, size, 4096):
    memory[at : at + 8] = at.to_bytes(8, "little")
open(f"{work}/filled", "w").close()
while not os.path.exists(f"{work}/check"):
    time.sleep(0.01)
wrong = sum(int.from_bytes(memory[at : at + 8], "little") != at for at in range(0, size, 4096))
with open(f"{work}/answer.new", "w") as file:
    file.write(f"wrong {wrong}")
os.rename(f"{work}/answer.new", f"{work}/answer")
while not os.path.exists(f"{work}/over"):  # one that ends takes its missing pages along, and CRIU may wait for them
    time.sleep(0.01)
"""


def wait(path: str, there: bool = True) -> None:
    """Until a file is there, or gone; TimeoutError after half a minute."""
    deadline = time.monotonic() + 30
    while os.path.exists(path) is not there:
        if time.monotonic() > deadline:
            raise TimeoutError(path)
        time.sleep(0.01)


def split(directory: str, earlier: str) -> None:
    """What CRIU marked lazy becomes the round before; the rest stays, and names it as its parent."""
    from reberth.node.criu.pagemap import FLAGS, NAME, PE_LAZY, PE_PARENT, messages, pack

    os.symlink(f"../{os.path.basename(earlier)}", f"{directory}/parent")
    for name in filter(NAME.match, os.listdir(directory)):
        path = f"{directory}/{name}"
        with open(path, "rb") as file:
            magic = file.read(8)
        head, *entries = messages(path)
        pages = f"{directory}/pages-{head[1]}.img"
        shutil.copy(path, earlier)
        shutil.copy(pages, earlier)
        with open(pages, "rb") as old, open(f"{pages}.new", "wb") as new:
            for entry in entries:
                data = old.read(entry[5] * 4096)
                new.write(b"" if entry[FLAGS] & PE_LAZY else data)
        os.rename(f"{pages}.new", pages)
        written = [head, *({**e, FLAGS: PE_PARENT} if e[FLAGS] & PE_LAZY else e for e in entries)]
        with open(path, "wb") as file:
            file.write(magic + b"".join(struct.pack("<I", len(pack(one))) + pack(one) for one in written))


def criu(word: str, *words: str) -> None:
    """One call, to its end."""
    directory = ("--images-dir", f"{WORK}/final", "--work-dir", f"{WORK}/final")
    subprocess.run(["criu", word, "--no-default-config", "-v2", *directory, "-o", f"{word}.log", *words], check=True)


def main() -> None:
    """Dump, split, join, restore, ask."""
    sys.path.insert(0, sys.argv[1])
    from reberth.node.criu import parents
    from reberth.node.pages import prefetch

    shutil.rmtree(WORK, ignore_errors=True)
    for name in ("final", "round-0"):
        os.makedirs(f"{WORK}/{name}")
    quiet = {name: subprocess.DEVNULL for name in ("stdin", "stdout", "stderr")}
    process = subprocess.Popen(
        [sys.executable, "-I", "-c", PROCESS, WORK, str(MIB << 20)], start_new_session=True, **quiet
    )
    wait(f"{WORK}/filled")
    criu("dump", "--tree", str(process.pid))
    process.wait()
    split(f"{WORK}/final", f"{WORK}/round-0")
    flow = prefetch.Prefetch(None, 32, parents.join(f"{WORK}/final"))
    number = flow.theirs.fileno()
    words = [
        "criu",
        "lazy-pages",
        "--no-default-config",
        "--images-dir",
        f"{WORK}/final",
        "--work-dir",
        f"{WORK}/final",
    ]
    words += ["-o", "lazy.log", "--page-server", "--ps-socket", str(number)]
    with subprocess.Popen(words, pass_fds=[number], **quiet) as daemon:
        expected = flow.load(f"{WORK}/final")
        flow.start()
        wait(f"{WORK}/final/lazy-pages.socket")
        criu("restore", "--restore-detached", "--lazy-pages")
        open(f"{WORK}/check", "w").close()
        wait(f"{WORK}/answer")
        code = daemon.wait(30)
        open(f"{WORK}/over", "w").close()
        wait(f"/proc/{process.pid}", there=False)
    assert expected >= MIB * 256 and (code, flow.pages, flow.failed) == (0, expected, ""), (code, flow.pages, expected)
    with open(f"{WORK}/answer") as file:
        print(file.read())
    shutil.rmtree(WORK)


if __name__ == "__main__":
    main()
