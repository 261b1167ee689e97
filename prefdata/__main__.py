"""`python -m prefdata` is `prefdata`."""

from prefdata.workflow.main import main

main()
