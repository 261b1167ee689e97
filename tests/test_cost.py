"""What a recipe costs, reckoned by hand; what is not known is asked for by the option that gives it."""

import copy
import itertools
import json
import math
from dataclasses import fields
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from prefdata.errors import ConfigError
from prefdata.models.size import parameters
from prefdata.recipe.read import read_recipe, validate_recipe
from prefdata.recipe.stage import Stage
from prefdata.recipe.work import Extent, Lengths, Size
from prefdata.shipped import shipped
from prefdata.stages.registry import STAGES
from prefdata.workflow import rates as known
from prefdata.workflow.cli import app
from prefdata.workflow.cost import Cost, cost, facts, render
from prefdata.workflow.rates import Rate, Rates
from train.cost import work

ROOT = Path(__file__).parents[1]
FULL_SCALE = ("base", "instruct", "online", "mrpo")
TINY: dict[str, Any] = {
    "name": "tiny",
    "sources": {"sources": [{"name": "s", "dataset": "a/b", "revision": "0" * 40}]},
    "generate": {
        "models": [{"name": "g", "id": "x/g-1B", "vllm": {}}],
        "temperatures": [0.5, 1.0],
        "per_temperature": 2,
        "max_tokens": 50,
    },
    "judge": [{"name": "j", "kind": "pairwise", "model": {"id": "x/j-4B", "vllm": {}}, "splits": ["train"]}],
    "score": {"references": [{"name": "r", "model": "x/r-2B"}], "dtype": "bfloat16"},
    "sets": {"method": "j", "splits": ["train"]},
    "train": {"runs": {"mcpo/a": {"epochs": 2, "negatives": {"count": 2}, "precision": "bfloat16"}}},
    "evaluate": {"runs": ["mcpo/a"], "samples": 1, "max_tokens": 100, "vllm": {}},
}
EXTENT = Extent(Lengths(prompt=100, completion=200, rubric=50, verdict=10), {}, prompts=1000, answers=5, kept=0.5)
"""450 prompts for training and 25 held out; of five answers one is pruned, four are generated."""


def rates(**shares: Rate) -> Rates:
    names = ("train", "adapt", "weigh", "score", "read.vllm", "write.vllm", "read.transformers", "write.transformers")
    quarter = Rate(low=0.125, value=0.25, high=0.5, measured=True, source="")
    return Rates(
        device="D",
        peak={"bfloat16": 1e12, "float32": 1e11},
        shares=dict.fromkeys(names, quarter) | shares,
        lengths=EXTENT.lengths,
        gpu_hour=2.0,
        sizes={},
        tasks={"t": {"questions": 100, "rows": 2, "read": 50, "written": 10}},
    )


def of(extent: Extent = EXTENT, prices: Any = (None, None), known: Any = None, **keys: Any) -> Cost:
    recipe = copy.deepcopy(TINY) | keys
    return cost(validate_recipe(recipe, "r"), extent, rates(), [work], known or {}, prices)


def hours(found: Cost) -> dict[tuple[str, str], float]:
    return {(line.stage, line.unit): line.hours[1] for line in found.lines}


def test_every_stage_by_hand() -> None:
    found = of()
    assert {(x.stage, x.unit): (x.count, x.what) for x in found.lines} == {
        ("generate", "g"): (1800, "answers"),  # 450 prompts, 2 temperatures, 2 samples
        ("judge", "j"): (6300, "calls"),  # 7 comparisons of 8 candidates, in both orders
        ("score", "r"): (4050, "log-probs"),  # 8 candidates and a noise copy
        ("train", "mcpo/a"): (900, "prompts seen"),
        ("evaluate", "mcpo/a"): (50, "answers"),  # a greedy one and a sampled one of 25
    }
    effective = 0.25 * 1e12 * 3600
    assert hours(found) == pytest.approx(
        {
            ("generate", "g"): 2e9 * (1800 * 100 + 1800 * 50) / effective,
            ("judge", "j"): 8e9 * (6300 * 550 + 6300 * 1) / effective,
            ("score", "r"): 4e9 * 450 * 1900 / effective,
            # 700 tokens with gradient at 6 FLOPs, and 7 candidates without at 2
            ("train", "mcpo/a"): 14.0,
            # log-probs are fp32, at a tenth of the peak here: of held-out pairs, and of the samples under both models
            ("evaluate", "mcpo/a"): 4e9 * (50 * 100 + 50 * 100 + 10 * 25 * 500 + 10 * 25 * 200 * 2) / effective,
        }
    )
    assert found.total.hours[1] == pytest.approx(sum(hours(found).values()))
    assert found.total.hours[0] == pytest.approx(found.total.hours[1] / 2)
    assert found.total.hours[2] == pytest.approx(found.total.hours[1] * 2)
    assert found.total.money(2.0) == pytest.approx(2 * found.total.hours[1])


@pytest.mark.parametrize(
    ("run", "flops"),
    [
        # per prompt seen, in units of a parameter: 100 tokens of a prompt, 200 of an answer, a pool of 7
        ({"dpo/a": {}}, 6 * 500),
        ({"dpo/a": {"checkpoint_activations": True}}, 8 * 500),
        ({"dpo/a": {"lora": {}}}, 4 * 500),
        ({"dpo/a": {"lora": {}, "checkpoint_activations": True}}, 6 * 500),
        ({"dpo/a": {"steps": 45, "batch_prompts": 10}}, 6 * 500),
        ({"dpo_all/a": {}}, 6 * (100 + 200 * 8)),
        ({"dpo_noise/a": {}}, 6 * 500),
        ({"rnce/a": {"negatives": {"count": 3}}}, 6 * 900),
        ({"mcpo/a": {}}, 6 * 500 + 2 * 7 * 200),
        ({"mcpo/a": {"negatives": {"origins": ["source"]}}}, 6 * 500 + 2 * 4 * 200),  # the chosen one is generated, say
        ({"mcpo/a": {"negatives": {"count": 7}}}, 6 * 1700),  # all are drawn: nothing to weigh
        ({"bco/a": {}}, 6 * 500 + 2 * 500),
        ({"kto/a": {}}, 6 * 500 + 2 * 500 * 2),  # the reference's pass too, here as large as the policy
    ],
)
def test_flops_of_a_training_run(run: dict[str, Any], flops: float) -> None:
    (name,) = run
    made = {name: {"precision": "bfloat16", **run[name]}}
    found = of(train={"runs": made}, evaluate={})
    assert hours(found)["train", name] == pytest.approx(450 * flops * 2e9 / (0.25 * 1e12 * 3600))


def test_sft_reads_the_demonstrations_alone() -> None:
    split = {"train": 0.5, "validation": 0.0, "test": 0.0, "sft": 0.5}
    found = of(split=split, evaluate={}, train={"runs": {"sft/a": {"set": "sft", "precision": "bfloat16"}}})
    assert hours(found)["train", "sft/a"] == pytest.approx(250 * 6 * 300 * 2e9 / (0.25 * 1e12 * 3600))


def test_segments_of_an_online_run_share_its_steps_and_prompts() -> None:
    online = {"temperatures": [1.0], "per_temperature": 6, "max_tokens": 50, "greedy_prompts": 10, "vllm": {}}
    keys = {"generate": {}, "noise": {"copies": 0}}
    source = [{**TINY["sources"]["sources"][0], "prompts_only": True}]
    found = of(**keys, sources={"sources": source}, online={"runs": {"mcpo/a": 3}, "judge": "j", **online})
    counts = {(x.stage, x.unit): x.count for x in found.lines}
    assert counts["generate", "mcpo/a"] == pytest.approx(450 * 6)
    assert counts["judge", "mcpo/a, j"] == pytest.approx(450 * 5 * 2)
    assert counts["score", "mcpo/a, r"] == pytest.approx(450 * 6)
    assert counts["train", "mcpo/a"] == pytest.approx(2 * 450)
    assert counts["online", "mcpo/a, greedy"] == pytest.approx(3 * 10)
    assert counts["evaluate", "mcpo/a"] == pytest.approx(3 * 50), "each part is evaluated"
    each = 6 * (100 + 3 * 200) + 2 * 5 * 200  # a pool of five: the judge's best is not in it
    assert hours(found)["train", "mcpo/a"] == pytest.approx(900 * each * 2e9 / (0.25 * 1e12 * 3600))


def test_judges_of_a_server_are_bought_by_tokens() -> None:
    model = {"id": "big", "server": {"price_in": 2.0, "price_out": 10.0}}
    judge = {**TINY["judge"][0], "model": model, "verdicts": "text"}
    (line,) = [x for x in of(judge=[judge]).lines if x.stage == "judge"]
    assert line.hours == (0, 0, 0)
    assert line.bought == pytest.approx(2.0 * 6300 * 550 / 1e6 + 10.0 * 6300 * 10 / 1e6)
    assert line.money(2.0) == pytest.approx(line.bought)
    (line,) = [x for x in of(judge=[judge], prices=(1.0, 0.0)).lines if x.stage == "judge"]
    assert line.bought == pytest.approx(1.0 * 6300 * 550 / 1e6)
    with pytest.raises(ConfigError, match="big: what its tokens cost is not known.*--price-in"):
        of(judge=[{**judge, "model": {"id": "big", "server": {}}}])


def test_win_rates_scores_and_tasks() -> None:
    runs = {"dpo/a": {"precision": "bfloat16"}, "dpo/b": {"precision": "bfloat16"}}
    evaluate = {**TINY["evaluate"], "runs": list(runs), "judge": "j"}
    found = of(train={"runs": runs}, evaluate=evaluate, harness={"tasks": ["t"], "limit": 30, "dtype": "bfloat16"})
    counts = {(x.stage, x.unit): x.count for x in found.lines}
    assert counts["win_rate", "j"] == 25 * 2
    assert counts["harness", "dpo/b"] == 30
    assert hours(found)["harness", "dpo/b"] == pytest.approx(4e9 * 30 * (2 * 50 + 10) / (0.25 * 1e12 * 3600))
    reward = {"name": "j", "kind": "reward", "model": {"id": "x/j-4B"}, "splits": ["train"]}
    (line,) = [x for x in of(judge=[reward]).lines if x.stage == "judge"]
    assert (line.count, line.what) == (450 * 8, "scores")
    assert line.hours[1] == pytest.approx(8e9 * 450 * 8 * 300 / (0.25 * 1e12 * 3600))


def test_more_prompts_and_more_epochs_cost_more() -> None:
    totals = [of(Extent(EXTENT.lengths, {}, n, 5)).total.hours for n in (1, 10, 1000, 10_000)]
    assert all(a < b for one, other in pairwise(totals) for a, b in zip(one, other, strict=True))
    made = [of(train={"runs": {"mcpo/a": {"epochs": n, "precision": "bfloat16"}}}).total.hours[1] for n in (1, 2, 5)]
    assert made == sorted(set(made))


def test_of_several_sources_each_counts_by_its_weight_and_split() -> None:
    one, bare = TINY["sources"]["sources"][0], {"prompts_only": True, "name": "p", "dataset": "c/d"}
    sources = [{**one, "weight": 0.5, "split": "train"}, {**one, **bare}]
    sizes = {"a/b:train": Size(400, 3), "c/d:train": Size(100, 9)}
    found = of(Extent(EXTENT.lengths, sizes), sources={"sources": sources})
    counts = {x.stage: x.count for x in found.lines}
    assert counts["generate"] == pytest.approx((200 + 90) * 4)
    assert counts["score"] == pytest.approx((200 + 90) * (2 + 4 + 1)), "of three answers one is pruned"


def test_rows_of_local_files_are_counted(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"x": 1}\n\n{"x": 2}\n')
    sources = {"sources": [{"name": "s", "path": str(tmp_path / "*.jsonl")}]}
    found = of(Extent(EXTENT.lengths, {}, answers=5), sources=sources)
    assert {x.stage: x.count for x in found.lines}["generate"] == pytest.approx(2 * 0.9 * 4)


@pytest.mark.parametrize(
    ("extent", "keys", "said"),
    [
        (Extent(EXTENT.lengths), {}, "the size of a/b:train is not known; give --prompts"),
        (Extent(EXTENT.lengths), {"sources": {"sources": [{"name": "s", "path": "none.jsonl"}]}}, "give --prompts"),
        (EXTENT, {"score": {"references": [{"name": "r", "model": "x/large"}]}}, r"x/large: .* give --params x/large=SIZE"),
        (EXTENT, {"train": {"runs": {"mcpo/a": {"init": {"tokenizer": "t"}}}}}, "give --params run:mcpo/a=SIZE"),
        (EXTENT, {"harness": {"tasks": ["u"]}}, "the size of u is not known; add it to a file of rates"),
        (EXTENT, {"score": {**TINY["score"], "dtype": "float64"}}, "no peak is known of score in float64"),
    ],
)
def test_what_is_not_known_is_asked_for(extent: Extent, keys: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        of(extent, **keys)


def test_a_trained_model_is_as_large_as_what_it_starts_from() -> None:
    run = {"sft/a": {"set": "sft", "model": "x/s-3B"}, "mcpo/a": {"model": "run:sft/a", "precision": "bfloat16"}}
    assert hours(of(train={"runs": run}))["train", "mcpo/a"] == pytest.approx(450 * 5800 * 3e9 / (0.25 * 1e12 * 3600))
    with pytest.raises(ConfigError, match="--params run:sft/a=SIZE"):
        of(train={"runs": {**run, "sft/a": {"set": "sft", "init": {"tokenizer": "t"}}}})
    fresh = {**run, "sft/a": {"set": "sft", "init": {"tokenizer": "t"}}}
    assert of(train={"runs": fresh}, known={"run:sft/a": 1e9}).total.hours[1] > 0


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("meta-llama/Llama-3.1-8B-Instruct", 8e9),
        ("Qwen/Qwen2.5-0.5B", 0.5e9),
        ("Qwen/Qwen3-30B-A3B", 3e9),
        ("x/SmolLM2-135m", 135e6),
        ("8b/none", None),
        ("x/8x7B", None),
        ("x/from-70B-to-8B", None),
    ],
)
def test_the_size_of_a_model_stands_in_its_name(name: str, size: float | None) -> None:
    assert parameters(name) == size


def test_the_size_of_a_local_model_is_its_configs(tmp_path: Path) -> None:
    shape = {"model_type": "llama", "vocab_size": 10, "hidden_size": 8, "intermediate_size": 6, "num_hidden_layers": 2}
    shape |= {"num_attention_heads": 2, "num_key_value_heads": 1, "tie_word_embeddings": False}
    (tmp_path / "config.json").write_text(json.dumps(shape))
    # embeddings and head, the last norm; a layer: q, o, k and v of half the width, three of the MLP, two norms
    assert parameters(str(tmp_path)) == 2 * 10 * 8 + 8 + 2 * (2 * 64 + 2 * 32 + 3 * 48 + 2 * 8)


def test_measured_rates_are_those_of_the_benchmark() -> None:
    lines = (ROOT / "benchmarks" / "results" / "gpu.jsonl").read_text().splitlines()
    machine, *rows = map(json.loads, lines)
    assert "H100" in machine["machine"]
    gpu = {row["name"]: row["value"] for row in itertools.takewhile(lambda row: "machine" not in row, rows)}
    shares = known.load().shares
    dpo = [gpu[f"gpu_mfu_dpo_n{n}"] for n in (4, 8)]
    assert shares["train"].value == pytest.approx(sum(dpo) / 2, abs=0.005)
    passes = []
    for n, one in zip((4, 8), dpo, strict=True):
        more = gpu[f"gpu_mcpo_over_dpo_n{n}"]
        passes.append((gpu[f"gpu_mfu_mcpo_n{n}"] * (1 + more) - one) / more)  # FLOPs of the pass over its time
    weigh = shares["weigh"]
    assert (weigh.low, weigh.high) == pytest.approx((min(passes), max(passes)), abs=0.005)
    assert weigh.value == pytest.approx(sum(passes) / 2, abs=0.005)
    assert {n for n, rate in shares.items() if rate.measured} == {"train", "weigh"}, "nothing else was timed on an H100"


def test_what_nobody_measured_says_so() -> None:
    guess = Rate(low=0.1, value=0.2, high=0.3, measured=False, source="a guess")
    recipe = validate_recipe(copy.deepcopy(TINY), "r")
    made = cost(recipe, EXTENT, rates(score=guess), [work], {})
    said = {row[0]: row[-1] for row in map(str.split, render(made).partition("\n\n")[0].splitlines())}
    assert (said["score"], said["train"], said["evaluate"]) == ("assumed", "measured", "assumed")
    assert "score: 0.2 (0.1 .. 0.3), assumed: a guess" in render(made)
    assert {r["stage"]: r["assumed"] for r in facts(made)["rows"]}["score"] == ["score"]
    fp32 = {**TINY["train"]["runs"]["mcpo/a"], "precision": "float32"}
    (line,) = [x for x in of(train={"runs": {"mcpo/a": fp32}}).lines if x.stage == "train"]
    assert line.assumed, "bf16 was timed"
    assert line.hours[1] == pytest.approx(140), "at a tenth of the peak"


def call(*words: str) -> str:
    done = CliRunner().invoke(app, ["cost", *words])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.output


@pytest.mark.parametrize("name", FULL_SCALE)
def test_every_full_scale_recipe_has_a_finite_cost(name: str) -> None:
    found = json.loads(call(name, "--json"))
    assert found["recipe"] == name
    assert 1 < found["total"]["gpu_hours"]["low"] < found["total"]["gpu_hours"]["high"] < math.inf
    assert found["total"]["money"] == pytest.approx(3 * found["total"]["gpu_hours"]["value"])
    trained = {row["unit"] for row in found["rows"] if row["stage"] == "train"}
    assert trained == set(read_recipe(shipped("config") / f"{name}.yaml").train.runs)


def test_who_trains_is_told_how_to_ask_for_its_memory() -> None:
    assert "prefdata memory base --gpus 8" in call("base").splitlines()[-1]


def test_options_replace_what_is_assumed(tmp_path: Path) -> None:
    before = json.loads(call("instruct", "--json"))
    own = tmp_path / "rates.yaml"
    own.write_text(yaml.safe_dump({"shares": {"write.vllm": {"value": 0.2, "high": 0.3}}, "lengths": {"rubric": 900}}))
    options = ["--prompt-tokens", "400", "--completion-tokens", "600", "--gpu-hour", "1", "--rates", str(own)]
    after = json.loads(call("instruct", "--json", *options, "--rate", "train=0.5", "--kept", "0.9"))
    assert after["assumptions"]["lengths"] == {"prompt": 400, "completion": 600, "rubric": 900, "verdict": 150}
    assert (after["assumptions"]["kept"], after["assumptions"]["gpu_hour"]) == (0.9, 1)
    assert after["rates"]["train"] == {"low": 0.5, "value": 0.5, "high": 0.5, "measured": False, "source": "given"}
    assert after["rates"]["write.vllm"]["value"] == 0.2
    assert before["rates"]["write.vllm"]["value"] == 0.1
    halved = json.loads(call("instruct", "--json", "--params", "meta-llama/Llama-3.3-70B-Instruct=35B"))
    judges = [next(r for r in found["rows"] if r["stage"] == "judge") for found in (before, halved)]
    assert judges[0]["gpu_hours"]["value"] == pytest.approx(2 * judges[1]["gpu_hours"]["value"])
    assert "default: 200" in call("--help")
    assert known.load().lengths.prompt == 200
    assert (known.load().lengths.completion, known.load().gpu_hour) == (300, 3)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["bse"], "did you mean 'base'"),
        (["base", "--rate", "trian=0.5"], "did you mean 'train'"),
        (["base", "--rate", "train=50"], "shares.train.low: Input should be less than or equal to 1"),
        (["base", "--params", "8B"], "is not NAME=NUMBER"),
        (["demo"], "give --prompts"),
    ],
)
def test_mistakes_are_named(words: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        call(*words)


def test_the_tables_of_the_page_are_what_the_command_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import costs

    page = costs.PAGE.read_text()
    assert page == costs.rendered(page), "run python benchmarks/costs.py"
    assert all(f"| `{name}` |" in page for name in FULL_SCALE)


def test_every_stage_that_runs_a_model_is_reckoned() -> None:
    """A new one is added to prefdata/workflow/stage_work.py."""
    default = {f.name: f.default for f in fields(Stage)}
    running = {n for n, row in STAGES.items() if row.models is not default["models"] or row.engine is not default["engine"]}
    by_tokenizer = {"rank", "noise", "sets"}
    reckoned = {row["stage"] for row in json.loads(call("online", "--json"))["rows"]}
    assert running - by_tokenizer == reckoned - {"train"}
