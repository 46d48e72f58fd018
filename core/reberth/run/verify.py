"""Probes of `--verify`: their words, and the look at the copy before the source is given up.

Why it comes after landing: docs/decisions/011-verify-after-landing.md.
"""

from __future__ import annotations

import contextlib
import shlex
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from reberth.run.decide import Decision
from reberth_hooks import CommandError, Exit, Mode, Owner, ReberthError, UsageError

if TYPE_CHECKING:
    from reberth.run.session import Session

HINT = "exec:COMMAND, tcp:PORT, tcp:HOST:PORT, http://HOST:PORT/PATH or processes"
LIMIT_S = 5.0
SETTLE_S = 15.0
HERE = "127.0.0.1"  # inside the workload's own network namespace


class VerifyError(ReberthError):
    """The copy runs, but a probe says that it is not well."""

    code = "verify"


UNVERIFIED = Decision(None, "the copy runs, the source is kept frozen", "moved", Owner.TARGET, Exit.CLEANUP_PENDING)


def take_back(session: Session) -> bool:
    """End a copy that ran and is not well, where that was asked for: the source runs as it was at the freeze."""
    if not session.prefers_source():
        return False
    with contextlib.suppress(ReberthError):  # the protocol looks again at what came of it
        _discard(session)
    return True


def _discard(session: Session) -> None:
    session.target.call("note", event="verify-failed")
    session.learn(1, session.target.call("discard", timeout_s=60.0))


def parse_probe(text: str) -> tuple[str, list[str]]:
    """Kind and words of one probe, as the helper's `verify` takes them; UsageError for anything else."""
    kind, _, rest = text.partition(":")
    try:
        if kind == "processes" and not rest:
            return kind, []
        if kind == "exec" and (words := shlex.split(rest)):
            return kind, words
        if kind == "tcp":
            host, _, port = rest.rpartition(":")
            return kind, [host.strip("[]") or HERE, str(_port(port))]
        if kind == "http":
            url = urlsplit(text)
            path = (url.path or "/") + (f"?{url.query}" if url.query else "")
            if url.hostname and not any(ord(c) <= 32 or ord(c) == 127 for c in path):
                return kind, [url.hostname, str(_port(str(url.port or 80))), path]
    except ValueError as error:
        raise UsageError(f"{text!a} is no probe: {error}", hint=HINT) from None
    raise UsageError(f"{text!a} is no probe", hint=HINT)


def _port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 65535:
        raise ValueError(f"{text!a} is no port")
    return int(text)


def vote_ready(session: Session) -> Any:
    """Ask the source for its vote; with probes, or a daemon to be asked, it knows that a running copy is not enough."""
    if session.plan.options.verify or session.plan.managed:
        session.source.call("note", event="verify")
    return session.source.call("vote", value="READY")


def verify(session: Session) -> None:
    """Run every probe of the plan on the target; raises VerifyError with what the first bad one saw."""
    if session.on_word and session.plan.options.verify:
        raise VerifyError("the copy runs, and is taken back on the operator's word")
    if session.plan.managed and session.plan.mode is not Mode.NEAR_LIVE and not session.forward:
        _settled(session)
    for text in () if session.forward else session.plan.options.verify:
        kind, words = parse_probe(text)
        if kind == "processes":
            words = [str(session.plan.details.get("tasks", 1))]
        found = session.target.call("verify", kind=kind, words=words, limit_s=LIMIT_S, timeout_s=LIMIT_S + 60)
        if not found["good"]:
            hint = f"see what is wrong there, then: reberth recover {session.id} --forward, or --rollback"
            raise VerifyError(f"the copy runs, but {text!a} failed: {found['problem']}", hint=hint)
        session.note("verified", text)


def _settled(session: Session) -> None:
    """Both daemons must stand by the copy: the target's undoes one of which it believes that it failed.

    Raises VerifyError while they do not say so, CommandError when it is undone: the source is the only one then.
    """
    deadline = time.monotonic() + SETTLE_S
    while (found := _word(session))["state"] != "good":
        if found["state"] == "undone":
            _discard(session)
            raise CommandError(f"the target's daemon has undone the copy: {found['problem']}")
        if time.monotonic() > deadline:
            hint = f"when the daemons answer: reberth recover {session.id}"
            raise VerifyError(f"the copy runs, but not all is said: {found['problem']}", hint=hint)
        time.sleep(0.1)


def _word(session: Session) -> dict[str, str]:
    """Return what both daemons say, in one word; the target's is asked for twice, since the first may be old by then.

    A source's daemon that has given its part up does no harm where the target's has nothing left that could undo the
    copy (seen with LXD 5.0.2 when the target's daemon is killed at the permission).
    """
    first, there, last = (
        end.call("gate_settled", name=session.plan.target_name, timeout_s=60.0)
        for end in (session.target, session.source, session.target)
    )
    for found in (first, last):
        if found["state"] not in ("good", "ended"):
            return dict(found)
    if there["state"] == "good" or (there["state"], last["state"]) == ("ended", "ended"):
        return {"state": "good", "problem": ""}
    return {**there, "state": "open"}
