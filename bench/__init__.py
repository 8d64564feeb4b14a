"""The figures of the design, each beside its peers in the same run, as ratios."""
