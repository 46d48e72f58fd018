"""The first program of a helper: the fixed line that ssh carries (`reberth.connect.boot`) reads it and runs it.

For a `control` connection it makes a private directory (0700), puts the helper there as a zip file, and forks: the
child leaves the session and serves the connection, the parent stays so that sshd keeps the channel. For a data
connection it hands its two descriptors to a helper that runs already. Whatever a login has printed before MARK is
skipped, by the controller and by the other node.
"""

# This file is also parsed by a Python that is too old, which it must be able to say: no annotations, no f-strings.
# ruff: noqa: ANN001, ANN201, UP, I001
# mypy: disable-error-code="no-untyped-def, no-untyped-call"

import contextlib
import os
import sys

MARK = bytes(1) + b"reberth" + bytes(1)
NOISE_BYTES = 4 << 20
OLDEST = (3, 9)
CONTROLLER_GONE = 75


def exactly(count):
    """Read `count` bytes of the connection and none more: what follows is the helper's."""
    data = b""
    while len(data) < count:
        piece = os.read(0, count - len(data))
        if not piece:
            sys.exit(CONTROLLER_GONE)
        data += piece
    return data


def own_base(uid):
    """Name the directory of a user without root; tempfile writes a file to find a place, so root does without."""
    import tempfile

    return os.path.join(os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir(), "reberth-%d" % uid)


def private_base():
    """Make the directory that holds those of all helpers of this user; end where another user can write it."""
    uid = os.getuid()
    base = "/run/reberth" if uid == 0 else own_base(uid)
    with contextlib.suppress(FileExistsError):
        os.mkdir(base, 0o700)
    found = os.lstat(base)
    if found.st_uid != uid or (found.st_mode & 0o170077) != 0o040000:
        sys.exit("reberth: %s is not private" % base)
    return base


def unpack(program, archive):
    """Put the helper into a new private directory, which is locked for as long as the helper lives."""
    import fcntl
    import tempfile

    os.umask(0o77)
    try:
        place = tempfile.mkdtemp(prefix="h-", dir=private_base())
        held = os.open(place, os.O_RDONLY)
        fcntl.flock(held, fcntl.LOCK_EX)
        for name, data in (("start.py", program), ("helper.zip", archive)):
            with open(os.path.join(place, name), "wb") as file:
                file.write(data)
    except OSError as error:
        sys.exit("reberth: no place for the helper: %s" % error)
    return place


def control(program):
    """Serve a controller: the zip file comes next on the connection, and after it the controller's requests."""
    place = unpack(program, exactly(int(exactly(10))))
    reader, writer = os.pipe()
    if os.fork():
        os.close(writer)
        os.dup2(os.open("/dev/null", os.O_RDWR), 0)
        os.dup2(0, 1)
        os.read(reader, 1)
        os._exit(0)
    os.close(reader)
    os.setsid()
    os.chdir("/")
    sys.path.insert(0, os.path.join(place, "helper.zip"))
    sys.dont_write_bytecode = True
    try:
        from reberth.node.daemon.loop import main

        main(place, writer)
    finally:
        import shutil

        shutil.rmtree(place, True)


def skip_noise():
    """Read what comes from the other end up to MARK and none further: the other node's login may have printed."""
    data, count = b"", 0
    while not data.endswith(MARK):
        piece = os.read(0, 1)
        if not piece and not count:
            return  # this end only writes
        if not piece:
            sys.exit("reberth: the beginning of the data was lost: what runs at a login there reads its input")
        count += 1
        if count > NOISE_BYTES:
            sys.exit("reberth: the other node's login does not stop printing")
        data = data[1 - len(MARK) :] + piece


def bulk(path, what):
    """Hand this connection to the helper that listens at `path`, and stay until it is through with it."""
    import array
    import socket

    skip_noise()
    peer = socket.socket(socket.AF_UNIX)
    peer.connect(path)
    peer.sendmsg([what.encode()], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0, 1]))])
    os.dup2(os.open("/dev/null", os.O_RDWR), 0)
    os.dup2(0, 1)
    peer.recv(1)


def begin(program):
    """Do what the words of the fixed line ask for; end with a word where this Python is too old."""
    if sys.version_info < OLDEST:
        found = "%d.%d" % sys.version_info[:2]
        sys.exit("reberth: python3 is %s there, %d.%d or later is needed" % (found, *OLDEST))
    if sys.argv[1] == "control":
        control(program)
    else:
        bulk(*sys.argv[2:])


if __name__ == "__main__":
    begin(globals().get("program", b""))
