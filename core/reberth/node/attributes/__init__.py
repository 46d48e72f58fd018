"""State that CRIU has no place for: read while the tasks stand still, set again in the held copy before it runs.

What is lost otherwise was measured with criu 4.2.1 (docs/checks.md, the table of states): the processors that a thread
may use, its I/O priority and timer slack, a process's coredump filter, multicast groups and some options of sockets,
and periodic timers that stood at 0 at the freeze (criu issue 3162).
"""
