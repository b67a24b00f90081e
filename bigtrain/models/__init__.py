"""Backbones: inputs to Features. A backbone contains no loss, optimizer or device code."""
