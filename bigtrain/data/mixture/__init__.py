"""Several corpora, mixed by weight."""
