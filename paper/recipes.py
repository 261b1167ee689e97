"""Recipes of the cells: a world's own (config/paper/<world>.yaml) with the training runs that are asked for."""

import copy
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from paper.cells import CONFIG, Cell, Size, Variant
from prefdata.recipe.read import read_yaml

POLICY = "sft/policy"
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "policy": (POLICY, {}),
    # larger, of another tokenizer, more steps on the same demonstrations
    "larger": (
        "sft/larger",
        {
            "set": "sft",
            "init": {"tokenizer": "toy:pairs", "hidden_size": 128, "layers": 3, "heads": 4, "mlp": 320},
            "steps": 1500,
            "optimizer": {"learning_rate": 3.0e-3, "warmup_steps": 50},
            "batch_prompts": 64,
        },
    ),
    # of half the width and two layers, fewer steps on the same demonstrations
    "small": (
        "sft/small",
        {
            "set": "sft",
            "init": {"tokenizer": "toy:letters", "hidden_size": 48, "layers": 2, "heads": 3, "mlp": 128},
            "steps": 400,
            "optimizer": {"learning_rate": 3.0e-3, "warmup_steps": 50},
            "batch_prompts": 64,
        },
    ),
    # learned from better data: the chosen answers
    "better": ("sft/better", {"model": f"run:{POLICY}", "epochs": 4, "optimizer": {"learning_rate": 3.0e-4}}),
}
"""References: the run of the world's main recipe that makes each."""
VALIDATION = 128
"""Validation prompts where there are several references."""
Recipe = dict[str, Any]


def recipes(size: Size, cells: Iterable[Cell]) -> dict[str, Recipe]:
    """The recipes of the cells by name, those that others take their models from first."""
    grouped: dict[str, list[Cell]] = {}
    for cell in cells:
        grouped.setdefault(cell.recipe(size), []).append(cell)
    made = {name: _recipe(size, name, some) for name, some in grouped.items()}
    others = {(c.world, c.world_seed, r) for some in grouped.values() for c in some for r in c.variant.references}
    for world, world_seed, reference in sorted(others):
        run, settings = MODELS[reference]
        made[_main(size, world, world_seed)]["train"]["runs"].setdefault(run, settings)
    return dict(sorted(made.items(), key=lambda pair: not is_main(pair[0])))


def is_main(name: str) -> bool:
    """Whether a recipe makes the models of its world, which the world's others take."""
    return f"-{Variant().name}-" in name


def _main(size: Size, world: str, world_seed: int) -> str:
    return f"{size.name}-{world}-{Variant().name}-{world_seed}"


def _recipe(size: Size, name: str, cells: list[Cell]) -> Recipe:
    first = cells[0]
    recipe = _world(size, first.world)
    recipe |= {"name": name, "seed": first.world_seed}
    if first.variant.name != "main":
        _vary(size, recipe, first)
    runs = {c.run: _run(size, c) for c in cells}
    recipe["train"]["runs"] |= runs
    online = {c.run: c.online for c in cells if c.online}
    recipe["online"] = {**recipe["online"], "runs": online} if online else None
    recipe["evaluate"]["runs"] += list(runs)
    return recipe


def _world(size: Size, world: str) -> Recipe:
    recipe = copy.deepcopy(read_yaml(CONFIG / f"{world}.yaml"))
    recipe["toy"] |= size.world.get("toy", {})
    recipe["train"]["runs"][POLICY] = overlaid(recipe["train"]["runs"][POLICY], size.world.get("policy", {}))
    return recipe


def overlaid(base: Recipe, over: Recipe) -> Recipe:
    """`base` with the values of `over`, key by key in nested sections."""
    nested = {k: overlaid(base[k], v) if isinstance(v, dict) and isinstance(base.get(k), dict) else v for k, v in over.items()}
    return {**base, **nested}


def _vary(size: Size, recipe: Recipe, cell: Cell) -> None:
    """Another set of the same world: its models are those of the main recipe, as folders."""
    variant, main = cell.variant, _main(size, cell.world, cell.world_seed)
    recipe["train"]["runs"].pop(POLICY)
    recipe["evaluate"]["runs"] = []
    for model in recipe.get("generate", {}).get("models", ()):
        model["id"] = _reference("policy", main)["model"]
    recipe["score"]["references"] = [_reference(name, main) for name in variant.references or ("policy",)]
    if variant.pruned:
        recipe["prune"]["drop_ranks"] = list(variant.pruned)
    if variant.references:  # whose weights may be learned from validation prompts
        recipe["toy"] |= {"train": min(variant.prompts or 0, recipe["toy"]["train"]), "validation": VALIDATION}


def _reference(name: str, recipe: str) -> dict[str, str]:
    return {"name": name, "model": str(Path("results") / recipe / "models" / MODELS[name][0])}


def _run(size: Size, cell: Cell) -> Recipe:
    settings = copy.deepcopy(cell.settings) | {"seed": cell.seed, "optimizer": {"learning_rate": cell.rate}}
    if cell.variant.references:
        settings["model"] = _reference(cell.variant.start, _main(size, cell.world, cell.world_seed))["model"]
    return settings
