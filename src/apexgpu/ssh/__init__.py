"""Connections to hosts: routes, keys, open connections, paramiko, OpenSSH, and many hosts at once."""
