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
PROFILE = "--workflow-profile"
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
    """Snakemake's call: everything that it would look for in the user's folder is named. Raises ConfigError."""
    profile, options = _profile(options)
    # --configfile takes all words up to the next option, a target of the user's too; the last of ours takes one word
    own = ["--configfile", str(recipe), "--snakefile", str(HERE / "Snakefile"), PROFILE, str(profile.resolve())]
    return [sys.executable, "-P", "-m", "snakemake", *own, *options]


def _profile(options: Sequence[str]) -> tuple[Path, list[str]]:
    """The profile that the options name, a folder or one that travels with the package, and the other options."""
    words, named = [], "default"
    rest = iter(options)
    for word in rest:
        if word == PROFILE:
            named = next(rest, "")
        elif word.startswith(f"{PROFILE}="):
            named = word.partition("=")[2]
        else:
            words.append(word)
    known = {p.name: p for p in sorted(shipped("profiles").iterdir()) if p.is_dir() and list(p.glob("*.yaml"))}
    if named in known:
        return known[named], words
    if not named or not Path(named).expanduser().is_dir():
        raise ConfigError(f"no such folder, and no profile of that name{did_you_mean(named, known)}", named or PROFILE)
    return Path(named).expanduser(), words


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
