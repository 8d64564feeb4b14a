"""Archives on the NAS: taking snapshots, checking and keeping them, and recovering from one."""
