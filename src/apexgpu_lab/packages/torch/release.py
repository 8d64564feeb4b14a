"""Which release this is: written anew by the lab's pip."""

VERSION = "1.1.0"
