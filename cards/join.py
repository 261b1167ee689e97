# /// script
# dependencies = ["prefdata"]
# ///
"""Join the texts of the sources to this set, which was published without them.

    python join.py OUT NAME=FILE [NAME=FILE ...]

OUT is a new folder: the whole set, as `datasets` and `prefdata train` read it. NAME=FILE says where a source's file lies on
this machine, once for each file (the names stand in manifest.json); sources on the Hub are fetched by themselves, at the
revision that the set was made of. prefdata (of the version that the card names) reads the sources: ids are made of the texts,
so what is joined is what was published, or nothing.
"""

import sys
from pathlib import Path


def main(arguments: list[str]) -> int:
    """The exit status."""
    try:
        from prefdata.errors import PrefdataError
        from prefdata.workflow.join import join
    except ImportError:
        print("error: this needs prefdata (of the version that README.md names)", file=sys.stderr)
        return 2
    if not arguments or not all("=" in pair for pair in arguments[1:]):
        print(__doc__, file=sys.stderr)
        return 2
    try:
        print(join(Path(__file__).parent, Path(arguments[0]), [pair.split("=", 1) for pair in arguments[1:]]))
    except PrefdataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
