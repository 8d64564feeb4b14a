"""Snapshots that can be trusted: taking them, testing them, keeping them, and coming back from one."""
