"""The data set card: what its header tells the Hub, what its sections tell a reader, snippets that run, every column described."""

import json
import re
import sys
import types
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from conftest import nectar, run_stages
from huggingface_hub import DatasetCard

from prefdata.models.engines.registry import ENGINES
from prefdata.output import checks, facts
from prefdata.output.card import card, card_files, card_keys, card_making, card_models, card_use, columns
from prefdata.output.card.card_merge import BEGIN
from prefdata.output.escape import markdown
from prefdata.output.published_configs import CONFIGS, OF_CANDIDATES, OF_LABELS, ONLINE
from prefdata.output.quality import Quality
from prefdata.recipe.read import validate_recipe
from prefdata.recipe.results import Results
from prefdata.recipe.settings.whole import Settings
from prefdata.stages.registry import STAGES
from train.file_settings import FileSettings

ROWS = [
    nectar(f"S{a}b", [("".join(sorted(f"{a}b")), 1, "good"), (f"{a}b"[::-1], 2, "bad"), (f"x{a}", 3, "worst")], split=s)
    for a, s in zip("acdefghi", ["train"] * 5 + ["test"] * 3, strict=True)
]
COMMIT = "0" * 40


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, lm: Path) -> Results:
    """A published set with a judge and a reference, of rows that a source twice states."""
    folder = tmp_path_factory.mktemp("card")
    (folder / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in [*ROWS, ROWS[0]]))
    recipe = {
        "name": "small",
        "seed": 7,
        "dedup": {},
        "sources": {"sources": [{"name": "mine", "path": str(folder / "rows.jsonl"), "license": "Some Words, 2026"}]},
        "sources.max_reject_rate": None,
        "prune": {"drop_ranks": []},
        "judge": [{"name": "exact"}],
        "score": {"references": [{"name": "tiny", "model": str(lm)}]},
        "sets": {"method": "exact"},
        "card": {
            "title": "Sorted | letters",
            "license": "other",
            "license_link": "https://example.org/terms",
            "papers": ["2502.04567"],
        },
    }
    del recipe["sources.max_reject_rate"]
    recipe["sources"]["max_reject_rate"] = 1.0
    made = Results(validate_recipe(recipe, "test"), STAGES, folder / "results")
    run_stages(made, "sources", "signatures", "dedup", "split", "prune", "judge", "judge_report", "rank", "noise", "score")
    run_stages(made, "sets", "report", "card", "publish")
    return made


@pytest.fixture(scope="module")
def text(run: Results) -> str:
    return (run.path("publish/small") / "README.md").read_text()


def test_the_hub_reads_every_key_of_the_header(run: Results, text: str) -> None:
    data = DatasetCard(text).data.to_dict()
    known = {k: v for k, v in data.items() if k not in ("configs", "dataset_info")}
    assert known | {"pretty_name": None} == {
        "license": "other",
        "license_name": "some-words-2026",
        "license_link": "https://example.org/terms",
        "language": ["en"],
        "tags": ["preference", "dpo"],
        "size_categories": ["n<1K"],
        "task_categories": ["text-generation"],
        "source_datasets": ["original"],
        "annotations_creators": ["machine-generated"],
        "language_creators": ["found"],
        "pretty_name": None,
    }
    assert {c["config_name"] for c in data["configs"]} == {"preference", "sets", "candidates"}


@pytest.mark.parametrize(
    ("rows", "named"),
    [(0, "n<1K"), (999, "n<1K"), (1000, "1K<n<10K"), (99_999, "10K<n<100K"), (10**6, "1M<n<10M"), (10**9, "n>1B")],
)
def test_size_categories_are_the_hubs(rows: int, named: str) -> None:
    assert card_keys.size_category(rows) == named


def test_no_local_path_is_on_the_card(run: Results, text: str, lm: Path) -> None:
    assert lm.name in text, "of a local model the folder's name"
    for path in (lm.parent, run.folder, Path.home()):
        assert str(path) not in text.replace("\\", "")


def test_a_reader_is_told_how_the_set_was_made(run: Results, text: str) -> None:
    plain = text.replace("\\", "")
    made = json.loads(run.path("report/report.json").read_text())
    revision = made["references"][0]["revision"]
    assert f"| tiny | {lm_name(run)} | {revision} | chat | eos | float32 |" in plain
    assert "- 8 prompts (train 5, test 3), each with" in plain
    assert "| mine@local | Some Words, 2026 | 8 | 8 | nectar | local files, not published as they were |" in plain
    assert (
        "similarity of 0.8 or more (MinHash, 128 numbers) are one cluster; one prompt of each is kept, 0 were removed" in plain
    )
    assert "Splits: before anything was made of the prompts, train 5, test 3; the source named every split." in plain
    assert "compared with no evaluation set" in plain
    assert "no answer was left out for its rank" in plain
    assert "No model was sampled" in plain
    assert "- exact: the embedded world's own judge, which knows the answers; champion, both orders." in plain
    assert "seed, 7, and of ids" in plain
    assert "the judges' verdicts (their figures are below), the removed rows themselves." in plain
    assert "Only 3 prompts are held out" in plain
    assert f"Noise: {made['roles']['noise']} candidates" in plain
    assert "the rejected answer of `preference` is never one of them" in plain


def lm_name(run: Results) -> str:
    return Path(run.settings.score.references[0].model).name


def test_tokens_and_roles_are_those_of_the_rows(run: Results) -> None:
    made = json.loads(run.path("report/report.json").read_text())
    counts, tokens, copies = Counter[str](), Counter[str](), 0
    for path in run.path("publish/small").glob("data/sets/*.parquet"):
        for row in pq.read_table(path).to_pylist():
            for c in row["candidates"]:
                group = "noise" if c["origin"] == "noise" else c["role"]
                counts[group] += 1
                copies += c["copies"] - 1
                tokens[group] += c["logps"][0]["num_tokens"]
    assert made["roles"] == dict(counts)
    assert made["merged"] == copies > 0
    assert {t["group"]: (t["answers"], t["tokens"]) for t in made["tokens"]} == {g: (counts[g], tokens[g]) for g in counts}


def test_quantiles_of_tokens_by_hand() -> None:
    (found,) = facts.token_counts({("r", "chosen", 3): 1, ("r", "chosen", 5): 18, ("r", "chosen", 90): 1})
    assert (found["answers"], found["tokens"]) == (20, 3 + 90 + 90)
    assert (found["p5"], found["p50"], found["p95"]) == (3, 5, 5)


# ---- what only the files tell ----


def test_every_published_column_is_described_and_every_config_counted(run: Results, text: str) -> None:
    folder, plain = run.path("publish/small"), text.replace("\\", "")
    assert card_files.UNKNOWN not in text
    assert "filled in by publishing" not in text
    for path in sorted(folder.glob("data/*/*.parquet")):
        config = path.parent.name
        assert config in columns.CONFIG_ROWS
        for name, dtype in columns.fields(pq.read_schema(path)):
            described = columns.meaning(config, name)
            assert described, f"{config}.{name}: describe it in prefdata/output/card/columns.py"
            assert f"| {name} | {dtype} | {described} |" in plain
    rows = Counter({p.parent.name + p.name[:2]: pq.read_metadata(p).num_rows for p in folder.glob("data/*/*.parquet")})
    for config in ("preference", "sets", "candidates"):
        assert f"| {config} | {columns.CONFIG_ROWS[config]} | {rows[f'{config}tr']} | {rows[f'{config}te']} |" in plain


def test_every_config_says_what_a_row_is() -> None:
    assert set(CONFIGS) | set(OF_LABELS) <= set(columns.CONFIG_ROWS)
    assert columns.config_rows(f"{ONLINE}mcpo-a{OF_CANDIDATES}", ONLINE, OF_CANDIDATES) == columns.OF_RUN[True]
    assert columns.config_rows(f"{ONLINE}mcpo-a", ONLINE, OF_CANDIDATES) == columns.OF_RUN[False]


def test_a_column_that_nobody_described_is_seen() -> None:
    assert columns.meaning("sets", "new_column") is None
    assert columns.meaning("preference", "prompt.tool_calls") == columns.OF_MESSAGE
    assert columns.meaning("sets", "candidates.role") != columns.meaning("preference", "prompt.role")
    assert columns.meaning("candidates", "label") != columns.meaning("unpaired", "label")


# ---- snippets ----


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)\n```", text, re.S)


@pytest.fixture
def beside(run: Results, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Where a reader stands: in the folder that holds the set's."""
    import datasets.config

    monkeypatch.chdir(run.path("publish"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return tmp_path


def test_the_snippet_that_loads_the_set_runs(beside: Path, text: str) -> None:
    found: dict[str, Any] = {}
    exec(blocks(text, "python")[0], found)
    assert {name: found[name]["train"].num_rows for name in ("preference", "sets")} == {"preference": 5, "sets": 5}
    assert found["candidates"]["test"].num_rows > 3


def test_the_snippet_of_trl_runs_on_columns_that_trl_reads(beside: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """TRL itself is not among our dependencies: a stand-in of the two names checks what the trainer is given."""
    trained = []

    class DPOTrainer:
        def __init__(self, model: str, args: Any, train_dataset: Any) -> None:
            self.rows = train_dataset

        def train(self) -> None:
            for row in self.rows:
                assert row["prompt"][-1]["role"] == "user"
                for name in ("chosen", "rejected"):
                    assert [m["role"] for m in row[name]] == ["assistant"]
                trained.append(row["chosen"][0]["content"])

    stand_in = types.ModuleType("trl")
    stand_in.DPOTrainer, stand_in.DPOConfig = DPOTrainer, dict  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "trl", stand_in)
    exec(blocks(text, "python")[1], {})
    assert len(trained) == 5


def test_the_snippet_of_prefdata_trains(beside: Path, text: str, lm: Path) -> None:
    from prefdata.workflow.execute import bring_up
    from train import from_file
    from train import run as run_

    asked = yaml.safe_load(blocks(text, "yaml")[0].replace("MODEL", str(lm)))
    (beside / "mcpo.yaml").write_text(yaml.safe_dump(asked | {"output": str(beside / "mcpo")}))
    made = from_file.load(beside / "mcpo.yaml")
    from_file.prepare(made, bring_up)
    run_.train(made.recipe, made.name, made.results)
    assert (beside / "mcpo" / "model.safetensors").exists()


def settings_of(**keys: Any) -> Settings:
    return validate_recipe({"name": "t", "sources": {"sources": [{"name": "s", "path": "x"}]}, **keys}, "test")


def test_snippets_of_a_set_on_the_hub_name_it_with_its_revision() -> None:
    made = card_use.snippets(settings_of(publish={"repo_id": "owner/set"}), ["preference", "sets"])
    assert 'load_dataset("owner/set", "preference")' in made
    asked = yaml.safe_load(blocks(made, "yaml")[0].replace("COMMIT", f"'{COMMIT}'"))
    assert FileSettings.model_validate(asked).data.dataset == "owner/set"
    assert "DPOTrainer" not in card_use.snippets(settings_of(), ["sets"])


# ---- sections that other recipes have ----


def test_sources_on_the_hub_have_revision_and_link() -> None:
    source = {"name": "n", "dataset": "owner/set", "revision": COMMIT, "format": "nectar", "weight": 0.5}
    settings = settings_of(sources={"sources": [source]})
    found = {"source": f"n@{COMMIT}", "license": "mit", "prompts": 1, "read": 2}
    other = {"source": "o@local", "license": "unknown", "prompts": 0, "read": 9}
    told = card_making.sources(settings, {"sources": [found], "sources_left_out": [other]})
    assert "| o@local | unknown | 0 | 9 |" in told
    assert (
        f"| n@{COMMIT} | mit | 1 | 2 | nectar | owner/set at {COMMIT}, split train; a keyed draw of 50% of its prompts |"
        in told
    )
    assert f"(https://huggingface.co/datasets/owner/set/tree/{COMMIT})" in told


def test_duplicates_contamination_and_shares_are_counted() -> None:
    settings = settings_of(
        dedup=None, decontaminate={"against": [{"name": "gsm8k"}, {"name": "own", "path": "/secret/own.jsonl"}]}
    )
    told = card_making.preparing(
        settings,
        {
            "stages": [
                {"stage": "decontaminate", "drops": {"contaminated": 3}},
                {"stage": "prune", "drops": {"pruned_rank": 4}},
            ],
            "splits": [{"split": "train", "prompts": 9, "by_source": 2}, {"split": "sft", "prompts": 1, "by_source": 0}],
            "prompts": {"train": 9},
        },
    )
    assert "Duplicates: not looked for" in told
    assert "removed (3): gsm8k (openai/gsm8k at 740312add88f781978c0658806c59bc2815b9866), own (a local file)" in told
    assert "for 2 the source named it, for 8 a keyed draw by these shares: train 0.9, validation 0.05, test 0.05" in told
    assert "Prompts of sft are not in the preference set." in told
    assert "answers on rank 2 of the source's order were left out (4)" in told
    assert "/secret" not in told


# ---- hostile values ----

HOSTILE = "# {version} | <script>alert(1)</script> [x](y) `z`\n---\nlicense: mit\u202e\x00```"


def hostile_facts() -> dict[str, Any]:
    judge = {
        "judge": HOSTILE,
        "what": HOSTILE,
        "kind": "pairwise",
        "model": HOSTILE,
        "revision": HOSTILE,
        "rubric": HOSTILE,
        "rubric_hash": "0",
        "procedure": "champion",
        "calls": 1,
        "missing": {"verdicts": {"share": 0.0, "se": 0.0, "of": 1}, "reasons": {}},
    }
    generator = {"producer": HOSTILE, "model": HOSTILE, "revision": HOSTILE, "engine": "server", "template": "chat"}
    generator["draws"] = ENGINES["server"].draws
    return {
        "prompts": {"train": 1},
        "candidates": {"train": 2},
        "roles": {"chosen": 1, "rejected": 1},
        "merged": 0,
        "tokens": [],
        "splits": [{"split": "train", "prompts": 1, "by_source": 0}],
        "sources": [{"source": HOSTILE, "license": "| x", "prompts": 1, "read": 1}],
        "sources_left_out": [{"source": HOSTILE, "license": HOSTILE, "prompts": 0, "read": 1}],
        "references": [
            {"name": HOSTILE, "model": HOSTILE, "revision": HOSTILE, "template": "chat", "end": "eos", "dtype": "f"}
        ],
        "generators": [{**generator, "temperatures": [1.0], "per_temperature": 1, "max_tokens": 2, "splits": ["train"]}],
        "judges": [judge],
        "stages": [],
        "warnings": [HOSTILE],
    }


def test_how_tokens_are_drawn_is_told() -> None:
    facts = hostile_facts()
    told = card_models.generation(facts, {"producers": []})
    assert "are drawn as the server does by default at that temperature: top-p and top-k are its own." in told
    facts["generators"][0]["draws"] = ENGINES["transformers"].draws
    assert "are drawn from the whole distribution at that temperature" in card_models.generation(facts, {"producers": []})


def test_values_are_escaped_and_the_header_parses_back() -> None:
    settings = settings_of(
        card={"title": HOSTILE, "tags": ["a: b", "- c"], "license": "cc-by-4.0", "authors": [HOSTILE], "description": HOSTILE},
    )
    found = Quality([], "source").facts()
    producers = [{"chosen": 1, "in the set": 2, "made": 3, "producer": HOSTILE}]
    quality = {**found, "producers": producers, "checks": checks.findings(found, [], "source", [])}
    text = card.render(settings, hostile_facts(), quality, HOSTILE)
    header = yaml.safe_load(re.match(r"---\n(.*?)---\n", text, re.S)[1])
    assert (header["license"], header["tags"]) == ("cc-by-4.0", ["preference", "dpo", "a: b", "- c"])
    assert header["pretty_name"].isprintable()
    body = text[text.index(BEGIN) :]
    assert "<script>" not in body
    assert "\u202e" not in text
    assert "\x00" not in text
    assert "\\{version\\}" in body, "a value is never read as a template"
    assert body.count("\n---\n") == 0
    assert body.count("```") == 2 * len(re.findall(r"^```\w+$", body, re.M)), "no value opens or ends a block of code"
    assert f"| {markdown(HOSTILE)} | 3 | 2 | 1 |" in body
    tables = re.findall(r"^\|.*\|\n(?:\|.*\|\n?)+", body, re.M)
    assert len(tables) > 10
    for rows in tables:
        widths = {re.sub(r"\\[\\|]", "", line).count("|") for line in rows.splitlines()}
        assert len(widths) == 1, f"a value breaks a table: {rows}"
