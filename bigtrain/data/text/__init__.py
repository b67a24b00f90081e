"""Text as training data: reading, splitting, streams of tokens, and the data modules made of them."""
