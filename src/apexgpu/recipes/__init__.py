"""What is set up in a container, in versions that go together; and the proof that it computes."""
