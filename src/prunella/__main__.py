"""`python -m prunella`: the console script."""

from prunella.cli.main import main

main()
