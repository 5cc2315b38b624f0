"""What a run keeps on disk: where it may begin, its summaries and curves, how far it is."""
