"""Commands that keep running in a container without a connection: started, listed, followed, stopped."""
