"""Text drawn from an artifact."""
