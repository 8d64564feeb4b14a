"""Mounts of a container's files on this laptop, made with the user's own sshfs."""
