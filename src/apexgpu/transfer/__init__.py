"""Copies between this laptop and a container, over rsync or SFTP, with renames that are atomic."""
