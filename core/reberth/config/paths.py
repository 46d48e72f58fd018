"""Where reberth keeps its files; pure functions of the environment, nothing is created here."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

SYSTEM_CONFIG = Path("/etc/reberth/config.toml")


def home_dir(environ: Mapping[str, str]) -> Path:
    """Return the user's home folder."""
    return Path(environ.get("HOME") or "~").expanduser()


def _xdg(environ: Mapping[str, str], variable: str, fallback: str) -> Path:
    """Return the folder of one XDG variable; a relative path there is ignored, as the XDG specification demands."""
    given = Path(environ.get(variable, ""))
    return given if given.is_absolute() else home_dir(environ) / fallback


def state_dir(environ: Mapping[str, str] | None = None) -> Path:
    """Journals and history: `$XDG_STATE_HOME/reberth`, for root without it `/var/lib/reberth`."""
    env = os.environ if environ is None else environ
    if os.geteuid() == 0 and not env.get("XDG_STATE_HOME"):
        return Path("/var/lib/reberth")
    return _xdg(env, "XDG_STATE_HOME", ".local/state") / "reberth"


def cache_dir(environ: Mapping[str, str] | None = None) -> Path:
    """Return what can be found out again: `$XDG_CACHE_HOME/reberth`, for root without it `/var/cache/reberth`."""
    env = os.environ if environ is None else environ
    if os.geteuid() == 0 and not env.get("XDG_CACHE_HOME"):
        return Path("/var/cache/reberth")
    return _xdg(env, "XDG_CACHE_HOME", ".cache") / "reberth"


def config_files(environ: Mapping[str, str] | None = None) -> tuple[Path, ...]:
    """Return the configuration files in the order of their layers, there or not.

    `$REBERTH_CONFIG` replaces all of them.
    """
    env = os.environ if environ is None else environ
    if env.get("REBERTH_CONFIG"):
        return (Path(env["REBERTH_CONFIG"]),)
    return (SYSTEM_CONFIG, _xdg(env, "XDG_CONFIG_HOME", ".config") / "reberth" / "config.toml")


def own_config_file(environ: Mapping[str, str] | None = None) -> Path:
    """Return the one file that commands write to: for root without `$XDG_CONFIG_HOME` the system's, else the user's."""
    env = os.environ if environ is None else environ
    files = config_files(env)
    return files[0] if os.geteuid() == 0 and not env.get("XDG_CONFIG_HOME") else files[-1]
