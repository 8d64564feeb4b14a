"""Windows of a container on this screen: every link of the chain."""
