"""The digest of a file's content, computed in a second thread while the data moves on."""

from __future__ import annotations

import hashlib
import queue
import threading
from types import TracebackType
from typing import Any, Optional

from reberth.node.tree.wire import CHUNK_BYTES

_SLOTS = 4
_INLINE_BYTES = 128 << 10  # below it the hand-over costs more than the hashing
_ZEROS = bytes(CHUNK_BYTES)
# Zeros that are really hashed for the holes of one file (about 50 ms). A lastlog has holes of many GiB; what lies
# beyond enters the digest as (offset, length) pairs.
HASHED_HOLES_BYTES = 64 << 20


class Slot:
    """One buffer, and a lock that is held as long as its bytes are not hashed."""

    __slots__ = ("busy", "view")

    def __init__(self) -> None:
        self.view = memoryview(bytearray(CHUNK_BYTES))
        self.busy = threading.Lock()


class HashLane:
    """Buffers for a single thread that moves data, and the thread that hashes them (OpenSSL lets go of the GIL)."""

    def __init__(self) -> None:
        self._slots = [Slot() for _ in range(_SLOTS)]  # untouched memory costs nothing
        self._next = 0
        self._queued = False
        self._jobs: queue.SimpleQueue[Optional[tuple[Any, Slot, int]]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> HashLane:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._thread is not None:
            self._jobs.put(None)
            self._thread.join()

    def slot(self) -> Slot:
        """Return a buffer whose old content is hashed; the caller fills it and gives it to `feed`."""
        slot = self._slots[self._next]
        self._next = (self._next + 1) % _SLOTS
        slot.busy.acquire()
        return slot

    def feed(self, digest: Any, slot: Slot, count: int) -> None:
        """Hash the slot's first `count` bytes into `digest`, here or in the thread; the bytes may still be read."""
        if count < _INLINE_BYTES and not self._queued:
            digest.update(slot.view[:count])
            slot.busy.release()
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="tree-hash", daemon=True)
            self._thread.start()
        self._queued = True
        self._jobs.put((digest, slot, count))

    def drain(self) -> None:
        """Wait until all that was fed is hashed."""
        if self._queued:
            for slot in self._slots:
                with slot.busy:
                    pass
            self._queued = False

    def _work(self) -> None:
        while True:
            job = self._jobs.get()
            if job is None:
                return
            digest, slot, count = job
            digest.update(slot.view[:count])
            slot.busy.release()


class ContentHash:
    """SHA-256 of a file's logical content, fed in order with data and holes.

    With holes of more than HASHED_HOLES_BYTES in all it is the SHA-256 of two digests, of the rest and of the further
    holes: those 64 bytes are no file of the same size, so nothing can be mixed up. The same holds for pieces that the
    receiver copies from an earlier file: that file's own digest stands for its content, so no byte is hashed twice.
    """

    def __init__(self, lane: HashLane, earlier: bytes = b"") -> None:
        self._lane = lane
        self._sha = hashlib.sha256()
        self._zeros = 0
        self._far: Any = None
        self._earlier = earlier
        self.size = 0

    def data(self, slot: Slot, count: int) -> None:
        """Append the slot's first `count` bytes."""
        self.size += count
        self._lane.feed(self._sha, slot, count)

    def piece(self, view: memoryview) -> None:
        """Append these bytes, hashed at once."""
        self.size += len(view)
        self._lane.drain()
        self._sha.update(view)

    def copy(self, length: int, at: int) -> None:
        """Append what the earlier file has at `at`."""
        self._far = self._far or hashlib.sha256(self._earlier)
        self._far.update(b"C" + b"".join(number.to_bytes(8, "big") for number in (self.size, length, at)))
        self.size += length

    def hole(self, length: int) -> None:
        """Append `length` zeros."""
        if self._zeros + length > HASHED_HOLES_BYTES:
            self._far = self._far or hashlib.sha256()
            self._far.update(self.size.to_bytes(8, "big") + length.to_bytes(8, "big"))
        else:
            self._zeros += length
            self._lane.drain()
            for done in range(0, length, CHUNK_BYTES):
                self._sha.update(_ZEROS[: min(CHUNK_BYTES, length - done)])
        self.size += length

    def digest(self) -> bytes:
        """Return the 32 bytes."""
        self._lane.drain()
        digest = self._sha.digest()
        return hashlib.sha256(digest + self._far.digest()).digest() if self._far else digest
