"""The command groups: read parameters, take from the kit, confirm, call one domain function, show."""
