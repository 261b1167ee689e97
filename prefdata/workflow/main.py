"""The entry point of `prefdata`, light: a job that the workflow's warm process serves loads nothing here."""

import os
import sys

from prefdata.children import die_with
from prefdata.progress import RUN_PID
from prefdata.workflow import warm


def main() -> None:
    """Run the command line; under a workflow not to outlive it, and in its warm process where that serves this command."""
    parent = os.environ.get(RUN_PID)
    if parent is not None:
        die_with(int(parent))
        if (code := warm.call(sys.argv[1:])) is not None:
            sys.exit(code)
    from prefdata.workflow.cli import run_command

    run_command()


if __name__ == "__main__":
    main()
