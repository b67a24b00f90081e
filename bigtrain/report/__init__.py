"""Reports of runs, judgements on overfitting, comparisons of runs."""
