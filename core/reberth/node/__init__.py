"""The node helper: a standard-library program that is sent over the connection and acts on one node.

It runs argument lists, streams trees, holds CRIU's hooks, keeps the node's journal and the two files that decide a
migration (vote, verdict), and outlives a lost connection until the run it serves has an end. Python >= 3.9, nothing
to install. `daemon/loop.py` is the loop, `operations/` what can be asked, `runs/source.py` and `runs/target.py` the two
ends of a move.
"""
