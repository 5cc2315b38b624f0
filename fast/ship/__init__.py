"""What a packed submission adds to training: its program, its log, its recipe."""
