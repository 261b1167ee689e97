"""Settings: closed, all mistakes at once, did-you-mean, and every shipped recipe valid."""

from pathlib import Path

import pytest

from prefdata.errors import ConfigError
from prefdata.models.engines.registry import LanguageModelSettings
from prefdata.recipe.read import describe, read_recipe, validate_recipe
from prefdata.recipe.settings import whole
from train import resolve
from train import settings as train_settings

RECIPES = sorted((Path(__file__).parent.parent / "config").glob("*.yaml"))
SOURCE = {"sources": {"sources": [{"name": "s", "path": "x.jsonl"}]}}


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.name)
def test_shipped_recipes_are_valid(path: Path) -> None:
    resolve.validate(read_recipe(path))


def problems(**keys: object) -> str:
    with pytest.raises(ConfigError) as error:
        resolve.validate(validate_recipe({"name": "t", **SOURCE, **keys}, "f.yaml"), "f.yaml")
    return str(error.value)


def test_all_mistakes_come_together_with_suggestions() -> None:
    said = problems(
        num_shard=2, prune={"drop_ranks": [0]}, score={"references": [{"name": "a", "model": "m", "tempalte": "chat"}]}
    )
    assert "f.yaml: num_shard: unknown key (did you mean 'num_shards'?)" in said
    assert "prune.drop_ranks.0: Input should be greater than or equal to 1" in said
    assert "score.references.0.tempalte: unknown key (did you mean 'template'?)" in said


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"sets": {"method": "exakt"}, "judge": [{"name": "exact"}]}, "did you mean 'exact'"),
        (
            {"score": {"references": [{"name": "a", "model": "run:sft/polcy"}]}, "train": {"runs": {"sft/policy": {}}}},
            "did you mean 'sft/policy'",
        ),
        ({"train": {"runs": {"mcop/x": {}}}}, "unknown objective (did you mean 'mcpo'?)"),
        ({"train": {"runs": {"dpo/x": {"model": "m"}}}}, "dpo needs the log-probs of references"),
        ({"train": {"runs": {"sft/x": {"set": "sft"}}}}, "no model to start from"),
        ({"train": {"runs": {"mcpo/x": {"model": "m", "set": "sft"}}}}, "sets/sft has none"),
        ({"train": {"runs": {"sft/x": {"model": "m", "optimizer": {"lr": 1}}}}}, "unknown key"),
        ({"train": {"runs": {"sft/x": {"model": "m", "negatives": {"weight": "ration"}}}}}, "did you mean 'ratio'"),
        ({"train": {"runs": {"../x": {}}}}, "is not <objective>/<variant>"),
        ({"name": "../escape"}, "name"),
        ({"sources": {"sources": [{"name": "s", "dataset": "a/b", "revision": "main"}]}}, "revision: String should match"),
        ({"judge": [{"name": "source"}]}, "reserved for the source's own order"),
        ({"judge": [{"name": "a"}, {"name": "a"}]}, "two of judge share a name"),
        ({"train": {"runs": {"sft/x": {"model": "run:sft/y"}}}}, "is no run (did you mean 'sft/x'?)"),
        (
            {"train": {"runs": {"sft/x": {"init": {"tokenizer": "t", "hidden_size": 96, "heads": 5}}}}},
            "no even multiple of heads",
        ),
        ({"train": {"runs": {"mrpo/x": {"references": {"alpha": [0, 0]}}}}}, "alpha gives no reference any weight"),
        ({"split": {"train": 0.5}}, "sum to 1"),
        ({"sources": {"sources": [{"name": "s", "dataset": "a/b"}]}}, "needs its revision"),
        ({"sources": {"sources": [{"name": "s", "path": "x", "fields": {"promt": "p"}}]}}, "fields: unknown names"),
    ],
)
def test_each_mistake_is_named(keys: dict[str, object], said: str) -> None:
    assert said in problems(**keys)


def test_template_unlike_the_primary_reference_is_refused() -> None:
    references = [{"name": "a", "model": "m", "template": "plain"}]
    assert "must be those of the primary reference a" in problems(
        score={"references": references}, train={"runs": {"dpo/x": {"template": "chat"}}}
    )


def test_repo_weight_order_is_for_two_references() -> None:
    run = {"mrpo/x": {"references": {"weight_order": "repo"}}}
    assert "not 1" in problems(score={"references": [{"name": "a", "model": "m"}]}, train={"runs": run})


def test_a_key_written_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "f.yaml"
    path.write_text("name: a\nname: b\n")
    with pytest.raises(ConfigError, match="line 2: the key 'name' is written twice"):
        read_recipe(path)


@pytest.mark.parametrize("text", ["[1, 2]", "a: [", "!!python/object/apply:os.system [ls]", ""])
def test_what_is_no_recipe_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "f.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError):
        read_recipe(path)


def test_every_key_has_a_reason_and_no_section_is_too_large() -> None:
    for model in (whole.Settings, train_settings.TrainingSettings):
        rows = describe(model)
        assert all(reason for _, _, reason in rows), [k for k, _, r in rows if not r]
    sections = [v for v in vars(whole).values() if isinstance(v, type) and v.__name__.endswith("Settings")]
    sections += [v for v in vars(train_settings).values() if isinstance(v, type) and v.__name__.endswith("Settings")]
    for section in sections:
        if section not in (whole.Settings, train_settings.TrainingSettings):  # the roots hold the sections
            assert len(section.model_fields) <= 16, section


def test_copies_and_devices_of_a_model_make_jobs() -> None:
    from prefdata.recipe.results import Results
    from prefdata.stages.registry import STAGES

    def run(vllm: dict[str, int], **keys: object) -> Results:
        model = {"name": "m", "id": "owner/m", "revision": "0" * 40, "vllm": vllm}
        sources = {"sources": [{"name": "s", "path": "x"}]}
        judges = [
            {"name": "big", "kind": "pairwise", "model": {k: v for k, v in model.items() if k != "name"}},
            {"name": "exact"},
        ]
        made = {"name": "t", "num_shards": 7, "sources": sources, "generate": {"models": [model], **keys}, "judge": judges}
        return Results(validate_recipe(made, "t"), STAGES)

    def gpus(of: Results, stage: str, unit: int = 0) -> int:
        return of.stages[stage].devices(of.settings, of.units(stage)[unit])

    def sizes(of: Results, stage: str, unit: int = 0) -> list[int]:
        return [len(group) for group in of.groups(stage, of.units(stage)[unit])]

    shared = run({"tensor_parallel": 4})
    assert [gpus(shared, s) for s in ("generate", "judge")] == [4, 4]
    assert gpus(shared, "judge", 1) == 0
    served = LanguageModelSettings.model_validate({"id": "owner/m", "server": {"devices": 2, "command": ["serve", "{model}"]}})
    assert served.facts.gpus(served) == 2
    elsewhere = LanguageModelSettings.model_validate({"id": "owner/m", "server": {}})
    assert elsewhere.facts.gpus(elsewhere) == 0, "it runs where nothing is leased"
    assert sizes(shared, "generate") == [7]
    copies = run({"data_parallel": 3})
    assert sizes(copies, "generate") == sizes(copies, "judge") == [3, 3, 1]
    assert sizes(copies, "judge", 1) == [7], "another judge's copies are its own"
    assert sizes(run({"data_parallel": 3}, shards_per_engine=2), "generate") == [2, 2, 2, 1]
    assert copies.trigger("generate", copies.units("generate")[0]) == shared.trigger("generate", shared.units("generate")[0])
