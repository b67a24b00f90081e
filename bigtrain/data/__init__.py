"""Data modules: datasets and the DataSpec; the data order; tokenisers. Knows no model and no task."""
