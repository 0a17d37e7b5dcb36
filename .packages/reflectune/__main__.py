"""`python -m reflectune`, the same as the command."""

from reflectune.loop.cli import main

main()
