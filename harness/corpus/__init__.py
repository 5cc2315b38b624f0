"""Training data: documents of text, shards and tokenizers, the challenge's own download."""
