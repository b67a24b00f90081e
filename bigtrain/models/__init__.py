"""Backbones: inputs to Features. A backbone knows no loss, no optimizer, no device."""
