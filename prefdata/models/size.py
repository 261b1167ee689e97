"""How many parameters a model has, without its weights: by its config where it is here, else by its name."""

import re
from pathlib import Path

UNIT = {"k": 1e3, "m": 1e6, "b": 1e9}
_SIZE = re.compile(r"(?<![a-z0-9.])(a?)(\d+(?:\.\d+)?)([kmb])(?![a-z0-9])", re.IGNORECASE)


def parameters(ref: str) -> float | None:
    """Parameters that compute a token: of a local folder all that its config makes, else the size in the name (8B; of
    30B-A3B the active ones, 3B). None where neither says."""
    folder = Path(ref).expanduser()
    return _of_config(folder) if (folder / "config.json").is_file() else of_name(ref)


def of_name(name: str) -> float | None:
    """The size in a name; None where there is none, or where several are not told apart."""
    found = [(active, float(number) * UNIT[unit.lower()]) for active, number, unit in _SIZE.findall(name.rsplit("/", 1)[-1])]
    sizes = {size for active, size in found if active} or {size for _, size in found}
    return sizes.pop() if len(sizes) == 1 else None


def size_of(text: str) -> float | None:
    """8B, 260K or 8000000000 as a number; None for anything else."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?(?:e\d+)?)([kmb]?)", text.strip(), re.IGNORECASE)
    return float(found[1]) * UNIT.get(found[2].lower(), 1.0) if found else None


def _of_config(folder: Path) -> float:
    """Of the model that transformers would make, its weights never allocated."""
    import torch
    from transformers import AutoModelForCausalLM

    from prefdata.models.loading import load_config

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(load_config(str(folder)))
    return float(sum(p.numel() for p in model.parameters()))
