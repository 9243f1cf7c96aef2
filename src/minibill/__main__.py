"""Run the command line: `python -m minibill`."""

from minibill.cli.main import main

main()
