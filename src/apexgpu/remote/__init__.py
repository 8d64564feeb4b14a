"""Programs for the containers: `programs/` has one file each; the modules here send them and read the answers."""
