"""The thin host of reberth: plans a migration, drives its phases through plugins, knows who owns the workload."""
