"""Asks one engine in a process of its own: `ask_engine.py vllm|transformers MODEL` prints what it replied as JSON."""

import json
import os
import sys
from dataclasses import asdict

TASKS = ["Sdcba", "Rabcde", "x" * 5000, "Dabc", "Cjih"]


def main() -> None:
    from prefdata.models.engines.protocol import Engine, Request, in_order
    from prefdata.models.engines.vllm import VllmSettings

    kind, path = sys.argv[1:]
    engine: Engine
    if kind == "vllm":
        from prefdata.models.engines.vllm import VllmEngine

        engine = VllmEngine(path, None, "chat", "eos", VllmSettings(dtype="float32", eager=True))
    else:
        from prefdata.models.engines.transformers import TransformersEngine

        engine = TransformersEngine(path, None, "chat", "eos", "m@1", 0)

    def asks(**keys: float) -> list[Request]:
        return [Request(f"{i:016x}", ({"role": "user", "content": t},), max_tokens=12, **keys) for i, t in enumerate(TASKS)]

    made = {
        "greedy": [asdict(c) for c in in_order(engine.complete(asks()))],
        "sampled": [asdict(c) for s in (1, 2) for c in in_order(engine.complete(asks(temperature=1.0, seed=s)))],
        "labels": [asdict(c) for c in in_order(engine.choose(asks(), ["A", "B"]))],
    }
    print(json.dumps(made))
    sys.stdout.flush()
    if kind == "vllm":
        engine.close()


if __name__ == "__main__":
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    main()
