"""`python -m reflectune.loop.cli`, the same command."""

from reflectune.loop.cli import main

main()
