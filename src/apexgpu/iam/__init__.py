"""The IAM web site: its requests and answers, sending keys, the password."""
