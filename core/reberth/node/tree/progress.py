"""The progress of a transfer: told to the controller now and then, and held back to the rate that was asked for."""

from __future__ import annotations

import time
from typing import Any, Callable, Optional

from reberth.node.system.rate_limit import Bucket
from reberth.node.tree.compression import Packer

TELL_S = 0.2


class Teller:
    """Passes progress on at most five times a second; what the `packer` made of it waits for its bucket."""

    def __init__(
        self, tell: Callable[..., None], bucket: Optional[Bucket] = None, packer: Optional[Packer] = None
    ) -> None:
        self.tell, self.next_s = tell, 0.0
        self.bucket, self.packer = bucket, packer
        self.spent_bytes = packer.wire_bytes if packer is not None else 0

    def __call__(self, done_bytes: int, *_: Any) -> None:
        """Count `done_bytes` in all; wait for the bucket, and tell the controller if it is time."""
        if self.bucket is not None:
            gone_bytes = self.packer.wire_bytes if self.packer is not None else done_bytes
            self.bucket.spend(gone_bytes - self.spent_bytes)
            self.spent_bytes = gone_bytes
        now = time.monotonic()
        if now >= self.next_s:
            self.next_s = now + TELL_S
            self.tell(bytes=done_bytes)
