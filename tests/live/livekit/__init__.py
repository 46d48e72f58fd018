"""What the live tests share: the command as a user runs it, snapshots of nodes, counts, workloads and their twins."""
