"""Ways to hold a workload still: cgroups, and the units of systemd."""
