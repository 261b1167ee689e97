"""`python -m prefdata` is `prefdata`."""

from prefdata.cli import main

main()
