"""Runs from elsewhere, as artifacts."""
