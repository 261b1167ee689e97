"""Small recipes that several tests run."""

from typing import Any

TOY: dict[str, Any] = {
    "name": "w",
    "seed": 3,
    "num_shards": 2,
    "toy": {"demonstrations": 60, "train": 24, "test": 12},
    "sources": {"sources": [{"name": "toy", "path": "toy:", "license": "apache-2.0"}]},
    "generate": {"models": [{"name": "policy", "id": "run:sft/policy"}], "max_tokens": 12, "chunk_prompts": 8},
    "judge": [{"name": "exact"}],
    "score": {
        "references": [{"name": "policy", "model": "run:sft/policy"}, {"name": "toy", "model": "run:sft/large"}],
        "chunk_prompts": 8,
    },
    "sets": {"method": "exact"},
    "train": {
        "runs": {
            "sft/policy": {
                "set": "sft",
                "steps": 12,
                "init": {"tokenizer": "toy:small", "hidden_size": 32, "heads": 1, "layers": 1, "mlp": 32},
            },
            "sft/large": {
                "set": "sft",
                "steps": 4,
                "init": {"tokenizer": "toy:large", "hidden_size": 32, "heads": 1, "layers": 1, "mlp": 32},
            },
            "mcpo/default": {"steps": 6, "batch_prompts": 8},
        }
    },
    "evaluate": {"runs": ["sft/policy", "mcpo/default"], "samples": 2, "max_tokens": 12},
}


ONLINE: dict[str, Any] = {
    "name": "on",
    "seed": 3,
    "num_shards": 2,
    "toy": {"demonstrations": 800, "train": 40, "test": 8},
    "sources": TOY["sources"],
    "judge": [{"name": "exact", "splits": ["train"]}],
    "noise": {"copies": 0},
    "score": {"references": [{"name": "policy", "model": "run:sft/policy"}], "chunk_prompts": 8},
    "train": {
        "runs": {
            "sft/policy": {**TOY["train"]["runs"]["sft/policy"], "steps": 120, "optimizer": {"learning_rate": 3e-3}},
            "mcpo/online": {"epochs": 2, "batch_prompts": 8},
            "kto/online": {"steps": 5, "batch_prompts": 8},
        }
    },
    "online": {
        "runs": {"mcpo/online": 3, "kto/online": 2},
        "judge": "exact",
        "temperatures": [0.8, 1.2],
        "max_tokens": 8,
        "chunk_prompts": 8,
        "greedy_prompts": 6,
    },
    "evaluate": {"runs": ["sft/policy", "mcpo/online"], "samples": 1, "max_tokens": 8},
}
"""Two online runs of a very small world, of three segments and of two."""
