"""What trained models do on held-out prompts: figures of each, for the summary and its JSON.

Exact is of the greedy answer, reward the mean score of the samples; accuracy and margin (nats, without beta) are of the
held-out pairs under the primary reference. Foreign: samples with a character that no prompt and no answer of the sets holds.
KL: mean log-ratio of the samples to the primary reference, in nats an answer; at temperature 1 it estimates KL(run ||
reference) of answers as they are read again, which the length limit may have cut. kl_share: samples that both can score; the
others are not in KL. Errors are standard errors over prompts.
"""

import math
from collections.abc import Set
from typing import Any

import polars as pl

from prefdata.recipe import places
from prefdata.recipe.job import Job
from prefdata.recipe.units import Part, evaluation_unit
from prefdata.tables import views

TIE_NATS = 1e-4
"""Margins below this are ties: a log-prob may differ by as much between two batches."""
SETS = (Part("sets", "sets", "sft"), Part("sets", "sets", "preference"))
COLUMNS = {
    "n": "n",
    "exact": "greedy exact",
    "reward": "sampled reward",
    "gain": "gain",
    "foreign": "foreign",
    "pairs": "pairs",
    "accuracy": "accuracy",
    "margin": "margin",
    "kl": "KL",
    "redraw": "redraw",
}
"""Figure: its heading."""
NATS = ("margin", "kl")
Facts = dict[str, Any]


def evaluation(job: Job) -> list[Facts]:
    """One entry a trained model, in the settings' order; the first is the baseline of the paired differences."""
    names = job.settings.evaluated
    pairs, known = held_out_pairs(job), characters(job)
    found = {name: outcomes(job, name, known) for name in names}
    return [
        {
            "run": name,
            **_compared(found[name], found[names[0]]),
            "foreign": mean_se(found[name]["foreign"]),
            **of_pairs(pair_log_ratios(job, name, pairs)["margin"]),
            "kl": mean_se(found[name]["kl"]),
            "kl_share": _kl_share(job, name),
            "redraw": _redraw(job, name),
        }
        for name in names
    ]


def outcomes(job: Job, name: str, known: Set[str]) -> pl.DataFrame:
    """What a run does on each held-out prompt, one row a prompt: exact (1 or 0), reward, foreign, length (mean characters of
    the samples), kl (nats); null where it cannot be known. `known`: the characters of the sets."""
    candidates, logps = _read(job, "candidates", name), _read(job, "logps", name)
    own, other = (logps.filter(of) for of in (pl.col("reference") == name, pl.col("reference") != name))
    rewards = _rewards(candidates.join(_read(job, "ranks", name), on=["prompt_id", "candidate_id"]))
    made = foreign(candidates, known)
    for figures in (lengths(candidates), rewards, log_ratios(own, other)):
        made = made.join(figures, on="prompt_id", how="full", coalesce=True)
    return made.sort("prompt_id")


def _read(job: Job, table: str, name: str) -> pl.DataFrame:
    return job.table(Part(table, "evaluate", evaluation_unit(name)))


def _rewards(scored: pl.DataFrame) -> pl.DataFrame:
    """Per prompt: exact (greedy score = 1) and reward (mean score of the samples); prompts without a verifier are out."""
    greedy = pl.col("temperature") == 0
    return (
        scored.filter(pl.col("score").is_not_null())
        .group_by("prompt_id")
        .agg(
            (pl.col("score").filter(greedy) == 1).first().cast(pl.Float64).alias("exact"),
            pl.col("score").filter(~greedy).mean().alias("reward"),
        )
    )


def _compared(own: pl.DataFrame, baseline: pl.DataFrame) -> Facts:
    both = own.join(baseline, on="prompt_id", suffix="_base")
    gain = mean_se(both["reward"] - both["reward_base"])
    return {
        "n": own["reward"].count(),
        "exact": mean_se(own["exact"]),
        "reward": mean_se(own["reward"]),
        "gain": gain,
        "gain_in_se": gain[0] / gain[1] if gain and gain[1] > 0 else None,
    }


def mean_se(values: pl.Series) -> tuple[float, float] | None:
    """(mean, standard error over prompts); None where there is nothing to average."""
    known = values.drop_nulls()
    if known.len() < 2:
        return None
    return float(known.mean()), float(known.std()) / math.sqrt(known.len())  # type: ignore[arg-type]


def characters(job: Job) -> set[str]:
    """Every character of the prompts and answers of the sets."""
    found = set[str]()
    for part in SETS:
        for frames in job.parts(of=[part]):
            for column, field in (("prompt", "content"), ("candidates", "response")):
                texts = frames["sets"][column].explode().struct.field(field)
                found.update(*texts.drop_nulls())
    return found


def foreign(candidates: pl.DataFrame, known: Set[str]) -> pl.DataFrame:
    """prompt_id, foreign: of its samples the share that holds a character which is not known."""
    samples = candidates.filter(pl.col("temperature") > 0)
    other = pl.Series("foreign", [not set(text) <= known for text in samples["response"]], dtype=pl.Float64)
    shares = samples.select("prompt_id").with_columns(other).group_by("prompt_id", maintain_order=True)
    return shares.agg(pl.col("foreign").mean())


def lengths(candidates: pl.DataFrame) -> pl.DataFrame:
    """prompt_id, length: mean characters of its samples."""
    samples = candidates.filter(pl.col("temperature") > 0).group_by("prompt_id", maintain_order=True)
    return samples.agg(pl.col("response").str.len_chars().mean().alias("length"))


def held_out_pairs(job: Job) -> pl.DataFrame:
    """prompt_id, chosen_id, rejected_id, and the log-probs of both under the primary reference (nats), of every held-out
    pair."""
    rows, settings = [], job.settings
    for frames in job.parts(of=[SETS[1]]):
        for row in frames["sets"].filter(pl.col("split") == settings.evaluate.split).to_dicts():
            pair = views.fixed_pair(row["candidates"], settings.sets.origins)
            if pair and row["candidates"][0]["logps"]:
                chosen, rejected = (row["candidates"][i] for i in pair)
                under = (answer["logps"][0]["logp"] for answer in (chosen, rejected))
                rows.append((row["prompt_id"], chosen["candidate_id"], rejected["candidate_id"], *under))
    names = ("prompt_id", "chosen_id", "rejected_id", "chosen_reference", "rejected_reference")
    columns = {name: pl.Float64 if name.endswith("reference") else pl.String for name in names}
    return pl.DataFrame(rows, schema=columns, orient="row")


def pair_log_ratios(job: Job, name: str, pairs: pl.DataFrame) -> pl.DataFrame:
    """prompt_id, chosen, rejected, margin of every pair of `held_out_pairs` that the run could score: the log-prob of each
    answer under the run less that under the primary reference, and the one less the other, in nats."""
    own = _read(job, "logps", name).filter(pl.col("reference") == name).select("prompt_id", "candidate_id", "logp")
    joined = pairs.join(own, left_on=["prompt_id", "chosen_id"], right_on=["prompt_id", "candidate_id"]).join(
        own, left_on=["prompt_id", "rejected_id"], right_on=["prompt_id", "candidate_id"], suffix="_rejected"
    )
    chosen = (pl.col("logp") - pl.col("chosen_reference")).alias("chosen")
    rejected = (pl.col("logp_rejected") - pl.col("rejected_reference")).alias("rejected")
    return joined.select("prompt_id", chosen, rejected, (chosen - rejected).alias("margin"))


def of_pairs(margin: pl.Series) -> Facts:
    """How many pairs, accuracy and margin, by the margins of pairs."""
    decided = margin.filter(margin.abs() > TIE_NATS)
    return {
        "pairs": margin.len(),
        "accuracy": mean_se((decided > 0).cast(pl.Float64)) if decided.len() else None,
        "margin": mean_se(margin) if decided.len() else None,
    }


def log_ratios(own: pl.DataFrame, reference: pl.DataFrame) -> pl.DataFrame:
    """prompt_id, kl: mean over its samples of their log-prob under the run less that under the reference, in nats."""
    both = own.join(reference, on=["prompt_id", "candidate_id"], suffix="_reference")
    ratios = both.with_columns((pl.col("logp") - pl.col("logp_reference")).alias("ratio"))
    return ratios.group_by("prompt_id", maintain_order=True).agg(pl.col("ratio").mean().alias("kl"))


def _kl_share(job: Job, name: str) -> float | None:
    """The share of the samples that the run and the primary reference could score."""
    samples = _read(job, "candidates", name).filter(pl.col("temperature") > 0).select("candidate_id")
    logps = _read(job, "logps", name).join(samples, on="candidate_id", how="semi")
    scored = logps.group_by("candidate_id").agg(pl.col("reference").n_unique()).filter(pl.col("reference") == 2)
    return scored.height / samples.height if samples.height and logps.height else None


def _redraw(job: Job, name: str) -> str | None:
    """When the run drew its negatives anew; None where it draws none."""
    receipt = job.read_json(places.receipt(name))
    return None if receipt.get("negatives", "none") == "none" else receipt["settings"]["negatives"]["redraw"]


def row(facts: Facts) -> list[str]:
    """A row of the table, in the order of COLUMNS."""
    return [_shown(facts[figure], 2 if figure in NATS else 3) for figure in COLUMNS]


def _shown(value: Any, digits: int) -> str:
    if value is None:
        return "n/a"
    return f"{value[0]:.{digits}f} ± {value[1]:.{digits}f}" if isinstance(value, (tuple, list)) else str(value)
