"""The thin host of reberth: plans a migration, drives its phases through plugins, and always knows who owns the workload."""
