"""What the fault tests are made of: processes, a TCP relay, databases, load, and an oracle."""
