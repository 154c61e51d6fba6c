"""What the evidence lower bound loses, and where."""
