"""The bytes of a tree stream: magic, records, pieces of file content, and the descriptor that they travel through.

Stream: MAGIC, records, the last one of type `end`. Record: length and CRC-32 (4 bytes each, big-endian), then a compact
JSON object; names are raw bytes in it (UTF-8 with surrogateescape). A record of type `f` is followed by pieces: kind,
length and CRC-32, then for `D` the data (a hole `H` has none; a copy `C` has 8 bytes: where the receiver has it in an
earlier file; `Z` and `L` have 4 bytes: how many they become, and then what compression.py made of these), until `E` or
`U` (the file changed while it was read), whose length is the file's size and which carries the 32-byte digest. So each
single wrong byte is found: in frames and headers by the CRC, in data by the digest.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import select
import socket
import stat
import struct
import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn, Optional

if TYPE_CHECKING:
    from reberth.node.tree.compression import Packer

MAGIC = b"RBTREE\x00\x03"  # the last byte is the version
CHUNK_BYTES = 1 << 20
HEADER_BYTES = 64 << 10
XATTR_BYTES = 1 << 20  # all values of one entry together
MAX_HEADER_BYTES = HEADER_BYTES + XATTR_BYTES * 3 // 2  # base64 makes 4 of 3
DIGEST_BYTES = 32
DATA, HOLE, COPY, END, END_UNSTABLE = b"DHCEU"
PACKED_ZSTD, PACKED_ZLIB = b"ZL"
PLACE_BYTES = 8
RAW_SIZE_BYTES = 4

_FRAME = struct.Struct(">II")
_PIECE = struct.Struct(">BQI")
_BUFFER_BYTES = 64 << 10
_POLL_MS = 200

ShouldStop = Optional[Callable[[], bool]]
OnProgress = Optional[Callable[[int, int], None]]


class TreeError(Exception):
    """A tree could not be sent or received; `name` is the entry at fault, `errno` the system's reason or 0."""

    def __init__(self, message: str, name: str = "", number: int = 0) -> None:
        super().__init__(f"{name!r}: {message}" if name else message)
        self.name = name
        self.errno = number


class TreeStoppedError(TreeError):
    """The caller's `should_stop` said so."""


def text(raw: bytes) -> str:
    """Return a name as text, whatever its bytes and whatever the locale."""
    return raw.decode("utf-8", "surrogateescape")


def raw(name: str) -> bytes:
    """Return the bytes of a name; TreeError when no bytes give this text."""
    try:
        return name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise TreeError("the name is not made of bytes", ascii(name)) from error


def from_os_error(error: OSError, name: str) -> TreeError:
    """Return the same failure as a TreeError that names the entry."""
    return TreeError(error.strerror or str(error), name, error.errno or 0)


def _poll(fd: int, event: int, should_stop: ShouldStop) -> None:
    """Wait until `fd` is ready; TreeStoppedError as soon as the caller wants an end."""
    poller = select.poll()
    poller.register(fd, event)
    while not poller.poll(_POLL_MS):
        check_stop(should_stop)


def check_stop(should_stop: ShouldStop) -> None:
    """Raise TreeStoppedError if the caller wants an end."""
    if should_stop is not None and should_stop():
        raise TreeStoppedError("stopped on request", "", errno.ECANCELED)


def _grow_pipe(fd: int) -> None:
    """A pipe of 1 MiB halves the number of context switches; any refusal is fine (pipe-user-pages-soft)."""
    f_setpipe_sz = 1031  # fcntl.F_SETPIPE_SZ exists since Python 3.10
    try:
        fcntl.fcntl(fd, f_setpipe_sz, CHUNK_BYTES)
    except OSError:
        return


class Output:
    """Writes everything to a pipe or socket and never blocks for good: a stalled peer leaves `should_stop` in charge.

    The description behind an inherited descriptor is shared with ssh, so O_NONBLOCK must not be set on it: a pipe is
    opened again through /proc, a socket gets MSG_DONTWAIT per call.
    """

    def __init__(self, fd: int, should_stop: ShouldStop = None) -> None:
        self._stop = should_stop
        self._own = -1
        self._socket: socket.socket | None = None
        self._fd = fd
        mode = os.fstat(fd).st_mode
        if stat.S_ISFIFO(mode):
            _grow_pipe(fd)
            try:
                self._own = self._fd = os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            except OSError:
                self._fd = fd  # not our pipe and we are not root: then writes may block
        elif stat.S_ISSOCK(mode):
            self._socket = socket.socket(fileno=os.dup(fd))

    def close(self) -> None:
        """Give up what was opened here; the caller's descriptor stays open."""
        if self._own >= 0:
            os.close(self._own)
            self._own = -1
        if self._socket is not None:
            self._socket.close()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Write all of `data`; TreeError with errno EPIPE and so on when the peer is gone."""
        view = memoryview(data)
        try:
            while view:
                try:
                    view = view[self._some(view) :]
                except BlockingIOError:
                    _poll(self._fd, select.POLLOUT, self._stop)
        except OSError as error:
            raise TreeError(f"writing the stream: {error.strerror}", "", error.errno or 0) from error

    def _some(self, view: memoryview) -> int:
        if self._socket is not None:
            return self._socket.send(view, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        return os.write(self._fd, view)


class Writer:
    """Frames records and pieces; small ones are gathered, large ones written straight from the caller's buffer."""

    def __init__(self, fd: int, should_stop: ShouldStop = None, packer: Optional[Packer] = None) -> None:
        self._out = Output(fd, should_stop)
        self._packer = packer
        self._buffer = bytearray(MAGIC)
        self.records = 0
        self.stream_bytes = 0

    def close(self) -> None:
        """Release descriptors; what is not flushed is lost on purpose (the stream has no end then)."""
        self._out.close()

    def flush(self) -> None:
        """Hand everything to the system."""
        self.stream_bytes += len(self._buffer)
        self._out.write(self._buffer)
        self._buffer = bytearray()

    def record(self, header: dict[str, Any]) -> None:
        """Append one record; TreeError when its names are too long for a header."""
        body = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogateescape")
        if len(body) > (MAX_HEADER_BYTES if "x" in header else HEADER_BYTES):
            raise TreeError(
                f"its header of {len(body)} bytes is too long", str(header.get("n", "")), errno.ENAMETOOLONG
            )
        self._put(_FRAME.pack(len(body), zlib.crc32(body, zlib.crc32(len(body).to_bytes(4, "big")))))
        self._put(body)
        self.records += 1

    def data(self, view: memoryview) -> None:
        """Append a piece of data, at most CHUNK_BYTES, packed where that is wanted and gains something."""
        packed = self._packer(view) if self._packer is not None else None
        if packed is None:
            self._piece(DATA, len(view))
        else:
            self._piece(packed[0], len(packed[1]))
            self._put(len(view).to_bytes(RAW_SIZE_BYTES, "big"))
            view = memoryview(packed[1])
        if len(view) < _BUFFER_BYTES:
            self._put(view)
            return
        self.flush()
        self.stream_bytes += len(view)
        self._out.write(view)

    def hole(self, length: int) -> None:
        """Append a hole."""
        self._piece(HOLE, length)

    def copy(self, length: int, at: int) -> None:
        """Append what the receiver has in its earlier file from `at` on, at most CHUNK_BYTES."""
        self._piece(COPY, length)
        self._put(at.to_bytes(PLACE_BYTES, "big"))

    def end_file(self, size: int, digest: bytes, unstable: bool) -> None:
        """Close the file that the last `f` record opened."""
        self._piece(END_UNSTABLE if unstable else END, size)
        self._put(digest)

    def _piece(self, kind: int, length: int) -> None:
        head = struct.pack(">BQ", kind, length)
        self._put(head + zlib.crc32(head).to_bytes(4, "big"))

    def _put(self, data: bytes | memoryview) -> None:
        self._buffer += data
        if len(self._buffer) >= _BUFFER_BYTES:
            self.flush()


def _refuse_number(_: str) -> NoReturn:
    raise ValueError("only whole numbers are allowed")


def _short_int(digits: str) -> int:
    if len(digits) > 20:
        raise ValueError("number too long")
    return int(digits)


class Reader:
    """Takes exactly the bytes of one stream from a descriptor, so that another stream may follow in the same pipe."""

    def __init__(self, fd: int, should_stop: ShouldStop = None) -> None:
        self._fd = fd
        self._stop = should_stop
        self.name = ""  # the entry at work, for messages
        self.records = 0
        if stat.S_ISFIFO(os.fstat(fd).st_mode):
            _grow_pipe(fd)

    def into(self, view: memoryview) -> None:
        """Fill `view`; TreeError when the stream ends before."""
        while view:
            if self._stop is not None:
                check_stop(self._stop)
                _poll(self._fd, select.POLLIN, self._stop)
            try:
                count = os.readv(self._fd, [view])
            except BlockingIOError:
                _poll(self._fd, select.POLLIN, self._stop)
                continue
            except OSError as error:
                raise TreeError(f"reading the stream: {error.strerror}", self.name, error.errno or 0) from error
            if count == 0:
                raise TreeError("the stream ended early", self.name, errno.EPIPE)
            view = view[count:]

    def exact(self, count: int) -> bytes:
        """Return the next `count` bytes."""
        data = bytearray(count)
        self.into(memoryview(data))
        return bytes(data)

    def magic(self) -> None:
        """Check the stream's first bytes."""
        found = self.exact(len(MAGIC))
        if found != MAGIC:
            same = found[:-1] == MAGIC[:-1]
            raise TreeError(f"tree stream of version {found[-1]}, not {MAGIC[-1]}" if same else "not a tree stream")

    def record(self) -> dict[str, Any]:
        """Return the next record's header, an object with a text `t`; TreeError when it is damaged or too long."""
        head = self.exact(_FRAME.size)
        length, crc = _FRAME.unpack(head)
        if length > MAX_HEADER_BYTES:
            raise TreeError(f"header of {length} bytes", self.name)
        body = self.exact(length)
        if zlib.crc32(body, zlib.crc32(head[:4])) != crc:
            raise TreeError("damaged header", self.name)
        try:
            header = json.loads(
                body.decode("utf-8", "surrogateescape"),
                parse_int=_short_int,
                parse_float=_refuse_number,
                parse_constant=_refuse_number,
            )
        except (ValueError, RecursionError) as error:
            raise TreeError("header is not JSON", self.name) from error
        if not isinstance(header, dict) or not isinstance(header.get("t"), str):
            raise TreeError("header is not a record", self.name)
        if length > HEADER_BYTES and "x" not in header:
            raise TreeError(f"header of {length} bytes without xattrs", self.name)
        self.records += 1
        return header

    def piece(self) -> tuple[int, int]:
        """Kind and length of the next piece."""
        head = self.exact(_PIECE.size)
        kind, length, crc = _PIECE.unpack(head)
        if zlib.crc32(head[:9]) != crc:
            raise TreeError("damaged piece", self.name)
        return kind, length
