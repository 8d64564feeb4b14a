"""The IAM web site: its requests and responses, the keys that it stores, its key push, and the domain password."""
