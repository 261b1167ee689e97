"""`python -m prefdata` is `prefdata`."""

from prefdata.workflow.cli import main

main()
