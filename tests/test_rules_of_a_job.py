"""A job on a cluster calls Snakemake again, for its own rules: it is told of no others, and of these the same."""

from collections.abc import Callable

import pytest
from recipes import TOY

from prefdata.recipe.results import Results
from prefdata.workflow import snakefile
from train import rules as training

NODE = ["snakemake", "--snakefile", "S", "--target-jobs", "prune_0:", "--allowed-rules", "prune_0", "noise_0", "--cores", "all"]


def test_a_call_on_a_node_is_for_the_rules_that_it_names() -> None:
    assert snakefile.called_for([*NODE, "--mode", "remote"]) == {"prune_0", "noise_0"}
    assert snakefile.called_for(["--mode", "remote", "--allowed-rules", "all"]) == {"all"}
    for words in (NODE, [*NODE, "--mode", "subprocess"], ["snakemake", "--mode", "remote"], ["snakemake", "set"]):
        assert snakefile.called_for(words) is None


@pytest.mark.parametrize("module", [snakefile, training], ids=["stages", "training"])
def test_the_rules_of_a_call_are_those_of_the_whole_workflow(make_run: Callable[..., Results], module: object) -> None:
    results = make_run(**{k: v for k, v in TOY.items() if k != "name"}, shards_per_job=1)
    every = module.rules(results)  # type: ignore[attr-defined]
    assert len({r.name for r in every}) == len(every)
    for rule in every:
        assert module.rules(results, {rule.name}) == [rule]  # type: ignore[attr-defined]
    assert module.rules(results, set()) == []  # type: ignore[attr-defined]


def test_such_a_call_asks_for_no_target_of_a_persons(make_run: Callable[..., Results]) -> None:
    results = make_run(**{k: v for k, v in TOY.items() if k != "name"})
    assert all(snakefile.targets(results).values())
    assert not any(snakefile.targets(results, {"prune"}).values())
