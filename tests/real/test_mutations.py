"""Each loss, mask, clip, draw and join broken on purpose, one at a time: some test must fail. A survivor is a missing test.

A sample is run: a keyed tenth, and mutants of files that changed since the base commit (PREFDATA_BASE, else the commit before),
at most MOST of them. `make mutants` runs all.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from prefdata.draws import hash64

pytestmark = pytest.mark.real
ROOT = Path(__file__).parents[2]

LOSSES, STEP, STAGES, SOURCES = "test_losses.py", "test_train.py", "test_stages.py", "test_sources.py"
OBJECTIVES, RUNS, PROCEDURES = "test_objectives.py", "test_runs.py", "test_procedures.py"
MUTANTS = [
    # losses
    ("train/objectives/losses.py", "-(1 - smooth) * F.logsigmoid(margin)", "(1 - smooth) * F.logsigmoid(margin)", LOSSES),
    ("train/objectives/losses.py", "- smooth * F.logsigmoid(-margin)", "- smooth * F.logsigmoid(margin)", LOSSES),
    ("train/objectives/losses.py", "compared.v_KBM - compared.u_KBM", "compared.u_KBM - compared.v_KBM", LOSSES),
    ("train/objectives/losses.py", "+ compared.counts_BM.log()", "", LOSSES),
    ("train/objectives/compared.py", "(self.counts_BM * per_pair).sum(1)", "per_pair.sum(1)", LOSSES),
    ("train/objectives/compared.py", "/ self.counts_BM.sum(1)", "/ self.counts_BM.shape[1]", LOSSES),
    ("train/objectives/compared.py", "(self.view_weights_KBM * values_KBM).sum(0)", "values_KBM.mean(0)", LOSSES),
    ("train/objectives/losses.py", '"token": -compared.chosen_B', '"token": compared.chosen_B', LOSSES),
    ("train/objectives/losses.py", "torch.log1p(-e)", "torch.log1p(e)", OBJECTIVES),
    ("train/objectives/losses.py", "- knobs.margin)", "+ knobs.margin)", OBJECTIVES),
    ("train/objectives/losses.py", "(-u).sigmoid() + v.sigmoid()", "(-u).sigmoid() + (-v).sigmoid()", OBJECTIVES),
    ("train/objectives/losses.py", "(compared.v_KBM + half) ** 2", "(compared.v_KBM - half) ** 2", OBJECTIVES),
    ("train/objectives/losses.py", "- 0.5 * F.logsigmoid(-v)", "- 0.5 * F.logsigmoid(v)", OBJECTIVES),
    ("train/objectives/losses.py", "/ real.sum(1, keepdim=True)", "/ real.shape[1] ** 2", OBJECTIVES),
    ("train/objectives/losses.py", "rejected / knobs.temperature", "rejected", OBJECTIVES),
    ("train/objectives/losses.py", "F.logsigmoid(compared.shift - v)", "F.logsigmoid(v - compared.shift)", OBJECTIVES),
    ("train/objectives/losses.py", "knobs.undesirable_weight * (-v)", "knobs.desirable_weight * (-v)", OBJECTIVES),
    (
        "train/objectives/losses.py",
        "compared.chosen_tokens_B[None, :, None]",
        "compared.chosen_tokens_B[None, :, None] ** 0",
        OBJECTIVES,
    ),
    ("train/batch_statistics.py", "j = (i + 1) % len(batch)", "j = i", OBJECTIVES),
    ("train/batch_statistics.py", "return max(0.0, sum", "return max(-9.0, sum", OBJECTIVES),
    ("train/batch_statistics.py", "(compared.u_KBM + compared.v_KBM) / 2", "compared.u_KBM", OBJECTIVES),
    ("train/step.py", "[example.labels[p] for p in places]", "[example.labels[p - 1] for p in places]", OBJECTIVES),
    ("train/objectives/compared.py", "self.rejected_BM[None] - self.reference_rejected_KBM", "self.rejected_BM[None]", LOSSES),
    # references
    (
        "train/objectives/references.py",
        "(1 + eps_BM) * first), (1 - eps_BM) * first",
        "(1 - eps_BM) * first), (1 + eps_BM) * first",
        LOSSES,
    ),
    (
        "train/objectives/references.py",
        "return knobs.eps_max * share, knobs.eps_max * (1 - share)",
        "return knobs.eps_max * (1 - share), knobs.eps_max * share",
        LOSSES,
    ),
    ("train/objectives/references.py", "tilde_w = -torch", "tilde_w = torch", LOSSES),
    ("train/objectives/references.py", 'alpha.flip(0) if knobs.weight_order == "repo" else alpha', "alpha", LOSSES),
    (
        "train/objectives/references.py",
        "alpha = weights(chosen_KBM, rejected_KBM, knobs)",
        "alpha = weights(clipped_w, clipped_l, knobs)",
        LOSSES,
    ),
    (
        "train/objectives/references.py",
        "return chosen_KBM[:1], rejected_KBM[:1]",
        "return chosen_KBM[-1:], rejected_KBM[-1:]",
        STEP,
    ),
    # the kernel
    ("train/objectives/negatives.py", "-(scores + gumbels(", "-(-scores + gumbels(", "test_negatives.py"),
    ("train/objectives/negatives.py", "draw.visit, (0, number)", "draw.visit, (0, 0)", "test_negatives.py"),
    ("train/objectives/negatives.py", "return beta * (policy - reference)", "return beta * policy", "test_negatives.py"),
    ("train/objectives/negatives.py", "np.lexsort((-noise, -scores))", "np.lexsort((-noise, scores))", "test_negatives.py"),
    ("prefdata/draws.py", "np.where(np.isnan(weights), -np.inf, weights) + gumbels", "0 * weights + gumbels", "test_draws.py"),
    # the log-prob
    ("prefdata/models/forward/logprob.py", ".logsumexp(1)[rows]) * mask[:, 0]", ".logsumexp(1)[rows])", "test_logprob.py"),
    ("prefdata/models/forward/logprob.py", "_places([len(c) - 1 for", "_places([len(c) - 2 for", "test_logprob.py"),
    ("prefdata/models/forward/logprob.py", "[shared.lengths[b] for b in owners]", "[0 for b in owners]", "test_logprob.py"),
    (
        "prefdata/models/forward/packed_attention.py",
        "torch.sigmoid(their - mine)",
        "torch.sigmoid(mine - their)",
        "test_attention.py",
    ),
    (
        "prefdata/models/forward/packed_attention.py",
        "torch.logaddexp(mine, their, out=mine)",
        "torch.maximum(mine, their, out=mine)",
        "test_attention.py",
    ),
    (
        "prefdata/models/forward/packed_attention.py",
        "value[:, :, s], True), strict",
        "value[:, :, s], False), strict",
        "test_attention.py",
    ),
    ("prefdata/models/forward/packed_attention.py", "made[0][:, :, family] += found[0]", "pass", "test_attention.py"),
    ("prefdata/models/forward/packed_attention.py", "query[:, :, -1:], key", "query[:, :, :1], key", "test_attention.py"),
    (
        "prefdata/models/forward/packed_attention.py",
        "ctx.families, ctx.scale = packed.families, scale",
        "ctx.families, ctx.scale, ctx.packed = packed.families, scale, packed",
        "test_forwards.py",
    ),
    ("prefdata/models/forward/log_softmax.py", "mul_(-grad[rows])", "mul_(grad[rows])", "test_log_softmax.py"),
    (
        "prefdata/models/forward/log_softmax.py",
        "unsqueeze(1), grad[rows])",
        "unsqueeze(1), grad[rows] * 0)",
        "test_log_softmax.py",
    ),
    (
        "prefdata/models/forward/log_softmax.py",
        "promote_types(dtype, torch.float32)",
        "promote_types(dtype, dtype)",
        "test_log_softmax.py",
    ),
    (
        "prefdata/models/forward/read_positions.py",
        '("q_proj", "o_proj", "mlp")',
        '("q_proj", "k_proj", "o_proj", "mlp")',
        "test_narrow.py",
    ),
    (
        "prefdata/models/forward/logprob.py",
        "device=model.device)[row] + place",
        "device=model.device)[row] + place - 1",
        "test_narrow.py",
    ),
    ("prefdata/models/forward/flex_attention.py", "key - before <= query", "key - before < query", "test_flex.py"),
    ("train/processes.py", "weight.grad /= self.size", "pass", "test_world.py"),
    (
        "prefdata/models/forward/packed_attention.py",
        "bool, device=self.device).tril()",
        "bool, device=self.device)",
        "test_attention.py",
    ),
    (
        "prefdata/models/forward/packed_attention.py",
        "device=self.device) < lengths[:, None]\n            seen",
        "device=self.device) <= lengths[:, None]\n            seen",
        "test_attention.py",
    ),
    ("prefdata/models/forward/logprob.py", "logits[rows, ids[:, 0]] -", "logits[rows, ids[:, 0] * 0] -", "test_logprob.py"),
    ("prefdata/models/forward/logprob.py", "torch.tensor([len(p) - 1 for", "torch.tensor([len(p) for", "test_logprob.py"),
    ("prefdata/models/forward/logprob.py", "window < longest", "window < longest - 1", "test_logprob.py"),
    # the step and the loop
    ("train/step.py", "example.logps[0][0]\n", "example.logps[-1][0]\n", STEP),
    ("train/step.py", "places = [p + first for p in places]", "places = [p + 1 - first for p in places]", STEP),
    ("train/objectives/negatives.py", "among = current + [", "among = [", "test_negatives.py"),
    ("train/objectives/negatives.py", "if i not in current]", "]", "test_negatives.py"),
    (
        "train/objectives/negatives.py",
        "others], draw.visit, (step, number)",
        "others], draw.visit, (0, number)",
        "test_negatives.py",
    ),
    ("train/objectives/reference_weights.py", "(chosen_KV > rejected_KV)", "(chosen_KV >= rejected_KV)", OBJECTIVES),
    ("train/step.py", 'epoch if settings.redraw == "epoch" else 0', "0", STEP),
    ("train/step.py", "first_KBM[k, b, : len(places)] = logps[0]", "first_KBM[k, b, : len(places)] = logps[-1]", STEP),
    ("train/loop.py", '"prompt": len(batch)', '"prompt": 4', STEP),
    ("train/loop.py", "return self.order.epoch(step - self.first)", "return self.order.epoch(step)", STEP),
    ("train/loop.py", "return self.order.members(step - self.first)", "return self.order.members(step)", RUNS),
    ("train/loop.py", 'row["eval_loss"] < best["eval_loss"]', 'row["eval_loss"] > best["eval_loss"]', RUNS),
    ("train/loop.py", "world.share(batch)", "batch", "test_world.py"),
    ("train/loop.py", "(loss * world.size)", "loss", "test_world.py"),
    ("train/precision.py", 'settings.precision == "bfloat16"', 'settings.precision == "x"', "test_forwards.py"),
    ("train/precision.py", "nullcontext(), _attention(config, attention)", "nullcontext(), nullcontext()", "test_forwards.py"),
    ("train/from_file.py", 'len(r["candidates"]) > 1 and', "", "test_from_file.py"),
    ("train/from_file.py", "if getattr(facts, k) != v]", "if getattr(facts, k) == 0]", "test_from_file.py"),
    ("train/loop.py", "json.dumps([references, [", "json.dumps([[], [", RUNS),
    ("train/result.py", '<= set(receipt["files"])', ">= set()", "test_from_file.py"),
    ("prefdata/judging/measures/estimates.py", "(observed - expected) / (1 - expected)", "observed", "test_judge_check.py"),
    ("prefdata/judging/measures/against_people.py", "rates[one] - rates[other]", "rates[one]", "test_judge_check.py"),
    ("prefdata/recipe/job.py", '("slice", "models", "inputs")', '("slice", "models")', "test_from_file.py"),
    ("prefdata/workflow/execute.py", "(changed and not job.reads)", "False", "test_from_file.py"),
    ("train/loop.py", '"token": sum(len(e.completions[0]) for e in batch)', '"token": 1', STEP),
    ("train/checkpoint.py", "        _load_optimizer(optimizer, saved)\n", "", STEP),
    ("train/examples.py", "return -(-len(self.ids) // self.batch)", "return len(self.ids) // self.batch or 1", STEP),
    # tokens
    ("prefdata/models/tokens.py", 'i if f == "length" else [*i, self.end_id]', "[*i, self.end_id]", "test_tokens.py"),
    ("prefdata/models/tokens.py", "encode_special_tokens=True)", "encode_special_tokens=False)", "test_tokens.py"),
    # joins and drops
    (
        "prefdata/tables/schema.py",
        'rows.join(prompts, on="prompt_id", how="anti"',
        'rows.join(prompts, on="prompt_id", how="semi"',
        "test_tables.py",
    ),
    ("prefdata/tables/schema.py", 'pl.col("scope") == "prompt"', 'pl.col("scope") != "candidate"', "test_tables.py"),
    ("prefdata/stages/sets.py", '.when(pl.col("rank") == 1)', '.when(pl.col("rank") == 99)', STAGES),
    (
        "prefdata/stages/sets.py",
        '.unique(["prompt_id", "_text"], keep="first"',
        '.unique(["prompt_id", "_text"], keep="last"',
        STAGES,
    ),
    (
        "prefdata/stages/sets.py",
        'pl.col("rank").is_not_null() | (pl.col("origin") == "noise")',
        'pl.col("rank").is_not_null()',
        STAGES,
    ),
    ("prefdata/stages/sets.py", "order = pl.Enum(names)", "order = pl.Enum(sorted(names))", STAGES),
    (
        "prefdata/stages/prune.py",
        '.sort("prompt_id", "source_rank", "_tie")',
        '.sort("prompt_id", "_tie", "source_rank")',
        STAGES,
    ),
    ("prefdata/tables/views.py", '.filter(pl.col("rank") == 1)', '.filter(pl.col("rank") >= 1)', STAGES),
    ("prefdata/judging/procedures/champion.py", "won is not None, won or champion", "won is not None, champion", PROCEDURES),
    ("prefdata/judging/procedures/verdicts.py", "if len(said) > 1:", "if len(said) > 2:", PROCEDURES),
    ("prefdata/judging/procedures/knockout.py", "([standing[-1]] if len(standing) % 2 else [])", "[]", PROCEDURES),
    ("prefdata/judging/procedures/round_robin.py", "+= 1 - share", "+= share", PROCEDURES),
    ("prefdata/stages/rank.py", "not ranks or (len(ranks) > 1 and places == {1})", "not ranks", STAGES),
    ("prefdata/judging/pairwise.py", "margin = first - second", "margin = second - first", "test_rubrics.py"),
    ("prefdata/judging/rubric.py", "and len(said) == 1 else", "else", "test_rubrics.py"),
    ("prefdata/judging/pointwise.py", '/ max(len(i.candidate["response"]), 1)', "", "test_judge_report.py"),
    (
        "prefdata/judging/measures/of_verdicts.py",
        '(outcome == "a") == (order == "ab")\n',
        'outcome == "a"\n',
        "test_judge_report.py",
    ),
    ("prefdata/models/engines/server.py", "time.monotonic() + seconds)", "time.monotonic())", "test_server_engine.py"),
    (
        "prefdata/stages/generate.py",
        "request.temperature, request.sample) >> 1",
        "request.temperature) >> 1",
        "test_generating.py",
    ),
    ("prefdata/judging/measures/win_rate.py", "if len(known) == len(orders)", "if known", "test_win_rate.py"),
    (
        "prefdata/judging/askings.py",
        'shown = ("a", "b") if order == "ab" else ("b", "a")',
        'shown = ("a", "b")',
        "test_judge.py",
    ),
    (
        "prefdata/judging/askings.py",
        'or order == "ab" else -reading.margin',
        'or order == "ab" else reading.margin',
        "test_judge.py",
    ),
    ("prefdata/stages/noise.py", "length == len(a.ids)", "length > 0", STAGES),
    ("prefdata/stages/sources.py", '_held(r["prompt"]), r["row_hash"]', '_held(r["prompt"])', SOURCES),
    ("prefdata/sources/rows.py", "not 1 <= value", "not 0 <= value", SOURCES),
    # files
    ("prefdata/tables/files.py", "page_checksum_verification=True", "page_checksum_verification=False", "test_files.py"),
    ("prefdata/output/commit.py", "head.files.get(name) != value", "True", "test_publish.py"),
    # sources, duplicates, figures
    ("prefdata/sources/rows.py", "1.0 + order.index(s)", "1.0 + len(order) - order.index(s)", "test_shapes.py"),
    ("prefdata/sources/rows.py", 'None if "dropped" in c else c["source_score"]', 'c["source_score"]', "test_shapes.py"),
    ("prefdata/sources/shapes/ultrafeedback.py", "average <= 4", "average <= 2", "test_shapes.py"),
    ("prefdata/stages/sources.py", "if one.prompt and one.prompt", "if False and one.prompt", SOURCES),
    ("prefdata/stages/dedup.py", ">= threshold", "> 0", "test_dedup.py"),
    (
        "prefdata/stages/dedup.py",
        '"test": 0, "validation": 1}, default=2',
        '"test": 2, "validation": 1}, default=0',
        "test_dedup.py",
    ),
    ("prefdata/stages/decontaminate.py", '("sft", "train")', '("train",)', "test_dedup.py"),
    ("prefdata/stages/decontaminate.py", "len(listed) >= settings.ngram", "len(listed) > settings.ngram", "test_dedup.py"),
    ("prefdata/sources/words.py", "len(listed) - n + 1", "len(listed) - n", "test_dedup.py"),
    ("prefdata/stages/sets.py", "return low | high", "return low & high", "test_quality.py"),
    ("prefdata/output/quality.py", "(product < 0)", "(product <= 0)", "test_quality.py"),
    ("prefdata/tables/figures.py", ' & (pl.col("origin") != "noise")', "", "test_quality.py"),
    ("prefdata/tables/files.py", 'loaded.pop("seal") != _seal(loaded)', 'loaded.pop("seal") is None', "test_files.py"),
    ("prefdata/models/scorer.py", ' if "lossy" not in values[k]]', "]", "test_engines.py"),
]


MOST = 12


def changed() -> set[str]:
    """Files that differ from the base commit; none where git cannot tell."""
    base = os.environ.get("PREFDATA_BASE", "HEAD~1")
    done = subprocess.run(["git", "diff", "--name-only", base], cwd=ROOT, capture_output=True, text=True, check=False)
    return set(done.stdout.splitlines())


def sample() -> list[tuple[str, str, str, str]]:
    """The mutants of this run."""
    if os.environ.get("PREFDATA_PROOFS") == "whole":
        return MUTANTS
    keyed = sorted(MUTANTS, key=lambda m: hash64("mutant", *m[:2]))
    files = changed()
    mine = [m for m in keyed if m[0] in files][:MOST]
    return [m for m in MUTANTS if m in mine or m in keyed[: len(keyed) // 10]]


SAMPLE = sample()


def test_every_mutant_is_of_code_that_is_there() -> None:
    for file, old, _, _ in MUTANTS:
        assert old in (ROOT / file).read_text(), f"{file}: {old}: the code has moved on: mend this list"


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mutants")
    for name in ("prefdata", "train", "tests", "cards", "rubrics"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def run(copy: Path, test: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", f"tests/{test}"],
        cwd=copy,
        env={**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("test", sorted({m[3] for m in SAMPLE}))
def test_what_catches_mutants_passes_without_one(copy: Path, test: str) -> None:
    done = run(copy, test)
    assert done.returncode == 0, done.stdout[-2000:]


@pytest.mark.parametrize(("file", "old", "new", "test"), SAMPLE, ids=[f"{m[0]}:{m[1][:40]}" for m in SAMPLE])
def test_a_mutant_is_caught(copy: Path, file: str, old: str, new: str, test: str) -> None:
    path = copy / file
    whole = path.read_text()
    path.write_text(whole.replace(old, new))
    try:
        done = run(copy, test)
    finally:
        path.write_text(whole)
    assert done.returncode == 1, f"survived: {done.stdout[-500:]}{done.stderr[-500:]}"
