"""Tasks: how samples become a batch, and a batch a loss. Tasks hold no parameters."""
