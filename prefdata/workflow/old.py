"""What a results folder holds of units that its recipe has no more: other models and judges, other numbers of segments."""

from pathlib import Path

from prefdata.recipe.results import Results


def leftovers(results: Results) -> list[Path]:
    """Folders of tables and models, stores of finished items and reports; nothing that the recipe reads or writes."""
    units = {name: set(results.units(name)) for name in results.stages}
    root = results.root
    tables = [p for p in root.glob("tables/*/*/*") if p.is_dir() and p.name not in units.get(p.parent.name, {p.name})]
    stores = [
        p for p in root.glob("chunks/*/*.sqlite*") if p.name.partition(".sqlite")[0] not in units.get(p.parent.name, {p.name})
    ]
    models = [p for p in root.glob("models/*/*") if p.is_dir() and f"{p.parent.name}/{p.name}" not in results.settings.runs]
    scratch = [
        p for p in root.glob("chunks/train/*/*") if p.is_dir() and f"{p.parent.name}/{p.name}" not in results.settings.runs
    ]
    reports = [p for p in root.glob("report/online/*.json") if p.stem not in units.get("online", {p.stem})]
    return sorted([*tables, *stores, *models, *scratch, *reports])


def notice(results: Results) -> str | None:
    """One line where trained models are left over: nothing of them is mixed into what is made now."""
    models = [p for p in leftovers(results) if results.root / "models" in p.parents]
    if not models:
        return None
    listed = ", ".join(f"{p.parent.name}/{p.name}" for p in models[:3]) + (", ..." if len(models) > 3 else "")
    return (
        f"{results.root}/models has runs that the recipe has no more ({listed}); nothing of them is used, "
        "`prefdata clean --old` removes them"
    )
