"""The user's own ~/.ssh: the config, known_hosts, key pairs."""
