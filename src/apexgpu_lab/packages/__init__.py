"""What the lab's pip installs for the packages whose behaviour recipes and `verify` look at."""
