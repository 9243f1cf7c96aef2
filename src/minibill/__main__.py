"""`python -m minibill` is the command line."""

from minibill.cli.main import main

main()
