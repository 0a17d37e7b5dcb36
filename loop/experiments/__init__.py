"""Several runs as one comparison: a plan, its runs side by side, and what they came to."""
