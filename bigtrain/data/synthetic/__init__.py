"""Data that is drawn; where it can be, the best possible result is known."""
