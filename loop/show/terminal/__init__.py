"""Documents of a run in a terminal."""
