"""The loop, what it needs to resume, and what it writes."""
