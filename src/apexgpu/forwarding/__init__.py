"""Ports of a container on this laptop, kept there; and what is served through them."""
