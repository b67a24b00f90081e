"""Tokenisers: text to ids and back."""
