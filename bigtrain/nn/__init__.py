"""Parts that backbones share."""
