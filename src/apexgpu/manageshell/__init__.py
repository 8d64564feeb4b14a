"""The manage shell of a host: its commands, its replies and its lock.

It also explains why a container is out of reach.

No other package contains a command or a reply of the manage shell.
"""
