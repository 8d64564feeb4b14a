"""What a person sees: `screen` is the terminal, and each other module draws the results of its user-level namesake."""
