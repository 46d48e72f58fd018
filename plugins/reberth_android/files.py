"""What stands in the files of a phone: their places, modes and texts; pure functions."""

from __future__ import annotations

from reberth_android.keys import PublicKey
from reberth_hooks import RefusedError

SSH_DIR = "/data/ssh"
USERINIT_DIR = "/data/local/userinit.d"
AUTHORIZED_KEYS = f"{SSH_DIR}/authorized_keys"
SSHD_CONFIG = f"{SSH_DIR}/sshd_config"
PID_FILE = f"{SSH_DIR}/sshd.pid"
HOST_KEY = f"{SSH_DIR}/ssh_host_ed25519_key"
START_SCRIPT = f"{USERINIT_DIR}/99sshd"
DEVICE_SCRIPT = "/system/bin/start-ssh"
DEVICE_CONFIG = "/system/etc/ssh"
# Where setup keeps what was there before it; root's alone.
KEPT_DIR = "/data/local/reberth-kept"

SCRIPT_MODE, CONFIG_MODE, KEYS_MODE, DIR_MODE = "755", "644", "600", "755"
LOOPBACK, EVERYWHERE = "127.0.0.1", "any"
DEFAULT_PORT = 22

# Every path that setup, or the start script when it runs, may make or change. Directories come after what is in them.
HOST_KEYS = tuple(f"{SSH_DIR}/ssh_host_{kind}_key" for kind in ("rsa", "dsa", "ecdsa", "ed25519"))
TOUCHED = (
    AUTHORIZED_KEYS,
    SSHD_CONFIG,
    PID_FILE,
    *(path for key in HOST_KEYS for path in (key, f"{key}.pub")),
    START_SCRIPT,
    SSH_DIR,
    USERINIT_DIR,
)

SIX_LINES = f"""\
AuthorizedKeysFile {AUTHORIZED_KEYS}
ChallengeResponseAuthentication no
PasswordAuthentication no
PermitRootLogin no
Subsystem sftp internal-sftp
PidFile {PID_FILE}
"""


def sshd_config(address: str, port: int) -> str:
    """Return the six lines, and one more for an address or port that is not sshd's own default (everywhere, port 22).

    `address` is one address, or `any`.
    """
    if address == EVERYWHERE:
        return SIX_LINES + (f"Port {port}\n" if port != DEFAULT_PORT else "")
    host = f"[{address}]" if ":" in address else address
    return SIX_LINES + f"ListenAddress {host}:{port}\n"


def start_script(device_script: str) -> str:
    """Return the device's own start script, looking into /data/ssh; RefusedError where it is not such a script."""
    if DEVICE_CONFIG not in device_script or "\ufffd" in device_script:
        text = f"{DEVICE_SCRIPT} of this device does not look into {DEVICE_CONFIG}"
        raise RefusedError(text, hint="it is not a LineageOS that this was made for; nothing is guessed here")
    return device_script.replace(DEVICE_CONFIG, SSH_DIR)


def with_key(authorized_keys: str, key: PublicKey) -> str:
    """Return the file with the key in it: unchanged when it is there already, whatever its options.

    Else one line more.
    """
    if any(key.blob in line.split() for line in authorized_keys.splitlines() if not line.startswith("#")):
        return authorized_keys
    ends = "" if not authorized_keys or authorized_keys.endswith("\n") else "\n"
    return f"{authorized_keys}{ends}{key.line}\n"
