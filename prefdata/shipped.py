"""Files that travel with the package: cards, rubrics, recipes, profiles of the workflow.

They lie at the top of the checkout; a wheel has them inside the package (pyproject.toml, package-dir).
"""

from pathlib import Path

PACKAGE = Path(__file__).parent
PLACES = {"cards": "cards", "rubrics": "rubrics", "config": "config", "profiles": "profiles"}
"""Folders: inside the package, and from the top of a checkout."""


def shipped(folder: str) -> Path:
    """One of these folders, wherever it is."""
    inside = PACKAGE / folder
    return inside if inside.is_dir() else PACKAGE.parent / PLACES[folder]
