"""Pieces of data made smaller on their way: by zstd's shared library where the node has it, or by Python's zlib.

Each piece stands for itself, so the method can change from one to the next, no process is started, and what the
receiver makes of one is never larger than the buffer it has for it, whatever the sender says. A piece that gains
nothing goes as it is.
"""

from __future__ import annotations

import ctypes
import functools
import zlib
from typing import Any, Optional, Union

from reberth.node.errors import OpError
from reberth.node.tree.wire import CHUNK_BYTES, PACKED_ZLIB, PACKED_ZSTD, TreeError

METHODS = ("zstd", "zlib")
LEVEL = 1
LEAST_BYTES = 256
WORTH = 0.9  # of the piece; what does not get smaller than this is not worth the receiver's time
MOST_SKIPPED = 32  # pieces after one that gained nothing; twice as many each time

Piece = tuple[int, Union[bytes, memoryview]]


@functools.lru_cache(None)
def _library() -> Optional[ctypes.CDLL]:
    """Return the functions of libzstd that have been the same since 1.0, or None where it is not."""
    try:
        found = ctypes.CDLL("libzstd.so.1")
        size, pointer = ctypes.c_size_t, ctypes.c_void_p
        for name, result, words in (
            ("ZSTD_createCCtx", pointer, ()),
            ("ZSTD_freeCCtx", size, (pointer,)),
            ("ZSTD_createDCtx", pointer, ()),
            ("ZSTD_freeDCtx", size, (pointer,)),
            ("ZSTD_compressBound", size, (size,)),
            ("ZSTD_compressCCtx", size, (pointer, pointer, size, pointer, size, ctypes.c_int)),
            ("ZSTD_decompressDCtx", size, (pointer, pointer, size, pointer, size)),
            ("ZSTD_isError", ctypes.c_uint, (size,)),
        ):
            function = getattr(found, name)
            function.restype, function.argtypes = result, words
    except (OSError, AttributeError):
        return None
    return found


def known() -> tuple[str, ...]:
    """Return the methods of this node, the best one first."""
    return METHODS if _library() is not None else METHODS[1:]


def _pointer(view: Union[bytes, memoryview]) -> Any:
    """Return where these bytes are, for a call of the library; a writable view is not copied."""
    if isinstance(view, memoryview) and not view.readonly:
        return (ctypes.c_char * len(view)).from_buffer(view)
    return bytes(view)


class Packer:
    """The source's side; `raw_bytes` went through it and became `wire_bytes`. One piece at a time."""

    def __init__(self, method: str = "none") -> None:
        self.method, self.raw_bytes, self.wire_bytes = "none", 0, 0
        self._skip, self._skipped = 0, 0
        self._context: Any = None
        self._room: Any = None
        self.use(method)

    def __del__(self) -> None:
        library = _library()
        if self._context is not None and library is not None:
            library.ZSTD_freeCCtx(self._context)

    def use(self, method: str) -> None:
        """Change the method, from the next piece on; raises OpError `missing` for one that this node has not."""
        if method != "none" and method not in known():
            raise OpError("missing", f"this node cannot compress by {method!r}")
        library = _library()
        if method == "zstd" and self._context is None and library is not None:
            self._context = library.ZSTD_createCCtx()
            self._room = (ctypes.c_char * int(library.ZSTD_compressBound(CHUNK_BYTES)))()
        self.method, self._skip, self._skipped = method, 0, 0

    def __call__(self, view: memoryview) -> Optional[Piece]:
        """Return the piece to send instead of these bytes, at most CHUNK_BYTES; None: send them as they are."""
        found = self._packed(view) if self.method != "none" and len(view) >= LEAST_BYTES else None
        self.raw_bytes += len(view)
        self.wire_bytes += len(view) if found is None else len(found[1])
        return found

    def _packed(self, view: memoryview) -> Optional[Piece]:
        if self._skip:
            self._skip -= 1
            return None
        kind, data = PACKED_ZLIB, memoryview(b"")
        if self.method == "zstd":
            kind, data = PACKED_ZSTD, self._zstd(view)
        else:
            data = memoryview(zlib.compress(view, LEVEL))
        if 0 < len(data) <= WORTH * len(view):
            self._skipped = 0
            return kind, data
        self._skip = self._skipped = min(MOST_SKIPPED, 2 * self._skipped or 1)
        return None

    def _zstd(self, view: memoryview) -> memoryview:
        """Valid until the next piece; empty when the library could not."""
        library = _library()
        assert library is not None
        words = (self._context, self._room, len(self._room), _pointer(view), len(view), LEVEL)
        count = int(library.ZSTD_compressCCtx(*words))
        return memoryview(self._room).cast("B")[: 0 if library.ZSTD_isError(count) else count]


class Unpacker:
    """The target's side: believes neither the bytes nor their number."""

    def __init__(self) -> None:
        self._context: Any = None

    def __del__(self) -> None:
        library = _library()
        if self._context is not None and library is not None:
            library.ZSTD_freeDCtx(self._context)

    def __call__(self, kind: int, data: bytes, into: memoryview) -> None:
        """Fill `into` with exactly what the piece holds; TreeError when that is more, less or nothing at all."""
        good = self._zstd(data, into) if kind == PACKED_ZSTD else self._zlib(data, into)
        if not good:
            raise TreeError("a piece that does not unpack")

    def _zlib(self, data: bytes, into: memoryview) -> bool:
        job = zlib.decompressobj()
        try:
            found = job.decompress(data, len(into) + 1)  # one more than there may be, but none beyond
        except zlib.error:
            return False
        if len(found) != len(into) or not job.eof or job.unused_data:
            return False
        into[:] = found
        return True

    def _zstd(self, data: bytes, into: memoryview) -> bool:
        library = _library()
        if library is None:
            raise TreeError("this node has no libzstd to unpack with")
        if self._context is None:
            self._context = library.ZSTD_createDCtx()
        words = (self._context, _pointer(into), len(into), data, len(data))
        count = int(library.ZSTD_decompressDCtx(*words))
        return not library.ZSTD_isError(count) and count == len(into)
