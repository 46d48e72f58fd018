"""The one place of the lab that starts programs, and the lab's error."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence

from reberth_hooks import Exit, ReberthError

Say = Callable[[str], None]

# Tools such as ip, debootstrap and pivot_root live in sbin, which the PATH of a plain login often lacks.
TOOL_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class LabError(ReberthError):
    """The lab cannot do what was asked; `hint` says what would help."""

    exit_code = Exit.REFUSED
    code = "lab"

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message, hint=hint)


def say(text: str) -> None:
    """Tells the user on stderr what happens (stdout carries data only)."""
    print(f"lab: {text}", file=sys.stderr, flush=True)


def tool_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return a small, untranslated environment for the programs that the lab starts."""
    env = {"PATH": TOOL_PATH, "LC_ALL": "C", "HOME": os.environ.get("HOME", "/root")}
    env.update(extra or {})
    return env


def need(tool: str, package: str) -> str:
    """Return the path of `tool`; raises LabError that names the Debian package which has it."""
    path = shutil.which(tool, path=TOOL_PATH)
    if path is None:
        raise LabError(f"{tool} is not installed", f"install it: apt-get install {package}")
    return path


def run(
    argv: Sequence[str],
    *,
    check: bool = True,
    timeout_s: float = 60,
    input_text: str | None = None,
    pass_fds: Sequence[int] = (),
    env: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Runs one program and keeps its output; raises LabError when it fails (if `check`) or takes too long.

    It inherits the descriptors `pass_fds`, and `env` is added to its environment.
    """
    try:
        done = subprocess.run(
            list(argv),
            check=False,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            input=input_text,
            stdin=subprocess.DEVNULL if input_text is None else None,
            env=tool_environment(env),
            pass_fds=pass_fds,
        )
    except subprocess.TimeoutExpired as error:
        raise LabError(f"{argv[0]} did not end within {timeout_s:g} s") from error
    except FileNotFoundError as error:
        raise LabError(f"{argv[0]} is not installed") from error
    if check and done.returncode != 0:
        raise LabError(f"{' '.join(argv)} failed ({done.returncode}): {(done.stderr or done.stdout).strip()[-800:]}")
    return done
