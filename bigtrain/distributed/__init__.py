"""Process group and device of this rank."""
