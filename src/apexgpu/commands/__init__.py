"""The command groups: read parameters, take from the session, confirm, call one domain function, show."""
