"""`python -m loop.cli`, the same command."""

from loop.cli import main

main()
