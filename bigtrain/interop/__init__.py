"""Models of other libraries: Hugging Face folders, read and written."""
