"""`python -m hwledger_omlx.cli`: the command where its script is not on the path."""

from hwledger_omlx.cli import main

main()
