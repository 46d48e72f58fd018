"""The two pluggy markers: plugins decorate with `hookimpl`, the contract with `hookspec`."""

from __future__ import annotations

import pluggy

PROJECT = "reberth"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)
