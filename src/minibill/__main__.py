"""`python -m minibill` is the command line."""

from minibill.cli import main

main()
