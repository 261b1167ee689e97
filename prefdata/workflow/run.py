"""`prefdata run`: the workflow from any folder. `prefdata init`: a recipe to start from."""

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from prefdata.errors import ConfigError, did_you_mean
from prefdata.shipped import shipped
from prefdata.tables.atomic import atomic_text
from prefdata.workflow.recipes import results_of

HERE = Path(__file__).parent
STARTERS = {"demo": shipped("config") / "demo.yaml", **{p.stem: p for p in sorted((HERE / "starters").glob("*.yaml"))}}


def recipe_file(name: str) -> Path:
    """A recipe by its path, or by the name of one that travels with the package. Raises ConfigError."""
    path = Path(name).expanduser()
    if path.is_file():
        return path.resolve()
    known = {p.stem: p for p in sorted(shipped("config").glob("*.yaml"))}
    if name not in known:
        raise ConfigError(
            f"no such file, and no recipe of that name{did_you_mean(name, known)}", name, "`prefdata init mine` writes one"
        )
    return known[name].resolve()


def command(recipe: Path, options: Sequence[str]) -> list[str]:
    """Snakemake's call: everything that it would look for in the user's folder is named."""
    # --configfile takes all words up to the next option, a target of the user's too; the last of ours takes one word
    own = ["--configfile", str(recipe), "--snakefile", str(HERE / "Snakefile")]
    own += ["--workflow-profile", str(shipped("profile").resolve())]
    return [sys.executable, "-P", "-m", "snakemake", *own, *options]


def run(name: str, options: Sequence[str]) -> None:
    """Become Snakemake on this recipe; results land in the working folder. Raises ConfigError for what is wrong with it."""
    recipe = recipe_file(name)
    results_of(recipe)
    words = command(recipe, options)
    sys.stdout.flush()
    os.execv(words[0], words)


def init(name: str, like: str) -> Path:
    """Write <name>.yaml, a commented recipe, into the working folder. Raises ConfigError."""
    if like not in STARTERS:
        raise ConfigError(f"no starter {like!r}{did_you_mean(like, STARTERS)}", "--like")
    if not re.fullmatch(r"[a-z0-9][a-z0-9_.-]{0,63}", name):
        raise ConfigError(
            f"{name!r} is not a valid recipe name", do="use lower-case letters and digits, and _ . - after the first"
        )
    path = Path(f"{name}.yaml")
    if path.exists():
        raise ConfigError("the file is there already", str(path), "choose another name, or move it away")
    text = STARTERS[like].read_text(encoding="utf-8")
    atomic_text(path, re.sub(r"^name: .*?(?=\s*(#|$))", f"name: {name}", text, count=1, flags=re.M))
    return path
