"""Images as training data: readers and data modules."""
