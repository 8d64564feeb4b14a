"""A container's files in a directory of this laptop, through the user's own sshfs."""
