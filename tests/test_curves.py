"""Curves: smoothing by hand, every metric of the trainer in words, one picture for several runs."""

import json
import re
from pathlib import Path

import pytest
from conftest import run_stages
from recipes import TOY

from prefdata.output import charts, curves
from prefdata.recipe import places
from prefdata.recipe.read import validate_recipe
from prefdata.recipe.results import Results
from prefdata.stages.registry import STAGES
from train.metrics import Metrics

DPO = [
    {"step": s + 1, "epoch": 0, "loss": 0.7 - s / 100, "margin": s / 10, "accuracy": 0.5, "lr": 1e-5 * (10 - s)}
    for s in range(10)
]
DPO[4] |= {"eval_loss": 0.66, "eval_margin": 0.2}
SFT = [{"step": s + 1, "epoch": 0, "loss": 3.0 - s / 10, "lr": 3e-3} for s in range(6)]


def test_smoothing_by_hand() -> None:
    assert curves.smoothed([1.0, 0.0, 4.0], 1.0) == pytest.approx([1.0, 1 / 3, (0.25 + 4) / 1.75])
    assert curves.smoothed([2.0] * 50, 7.0) == pytest.approx([2.0] * 50), "a constant stays what it is"
    assert curves.half_life(400) == 20
    assert curves.half_life(3) == 1


def test_points_are_raw_smooth_and_held_out() -> None:
    stepped, held = curves.points(DPO, "loss", "r")
    assert [p["raw"] for p in stepped] == [r["loss"] for r in DPO]
    assert stepped[0]["smooth"] == pytest.approx(0.7)
    assert stepped[-1]["smooth"] > DPO[-1]["loss"]
    assert held == [{"run": "r", "step": 5, "held": 0.66}]
    rates, none = curves.points(DPO, "lr", "r")
    assert [p["smooth"] for p in rates] == [r["lr"] for r in DPO], "a rate is known, not measured"
    assert none == []
    assert curves.points(SFT, "margin", "r") == ([], [])


@pytest.mark.parametrize("steps", [299, 300, 301, 5000])
def test_long_runs_are_thinned_to_their_last_step(steps: int) -> None:
    made, _ = curves.points([{"step": s, "loss": 1.0} for s in range(steps)], "loss", "r")
    assert len(made) <= curves.MOST_POINTS + 1
    assert made[-1]["step"] == steps - 1


def test_many_runs_share_the_points_of_a_panel() -> None:
    rows = [{"step": step, "loss": 1.0, "margin": 0.5} for step in range(1, 301)]
    for count, each in ((1, 300), (10, 300), (30, 100), (1000, 13)):
        drawn = curves.panels({f"r{i:04d}": rows for i in range(count)}, "").to_dict()
        of_one = [p for p in drawn["concat"][0]["layer"][0]["data"]["values"] if p["run"] == "r0000"]
        assert each <= len(of_one) <= each + 1
        assert of_one[-1]["step"] == 300


def test_losses_of_two_kinds_are_not_drawn_together() -> None:
    found = curves.groups({"sft/a": SFT, "dpo/a": DPO, "dpo/b": DPO})
    assert {heading: list(runs) for heading, runs in found.items()} == {
        curves.COMPARING: ["dpo/a", "dpo/b"],
        curves.PLAIN: ["sft/a"],
    }


def test_the_page_compares_runs_prints_rates_and_defines_metrics() -> None:
    text = curves.page_of({"dpo/a": DPO, "dpo/b<": DPO, "sft/a": SFT}, "t")
    assert "<script" not in text
    assert "dpo/b&lt;" in text
    assert "1e-05" in text, "the last learning rate"
    assert ">0.000<" not in text.partition("First, last")[0].partition("At the end")[2]
    for name in ("loss", "margin", "eval_margin", "lr"):
        assert f"<td>{name}</td>" in text
    assert curves.METRICS["margin"].split(";")[0] in text.replace("&#x27;", "'")
    assert "ess" not in re.findall(r"<td>(\w+)</td>", text), "what no run has is not defined"


def test_a_lone_run_without_evaluation_has_no_legend() -> None:
    svg = charts.svg(curves.panels({"sft/a": SFT}, "t"))
    assert "role-legend" not in svg
    assert "held out" not in svg
    assert "role-legend" in charts.svg(curves.panels({"dpo/a": DPO, "dpo/b": DPO}, "t"))
    assert "held out" in charts.svg(curves.panels({"dpo/a": DPO}, "t"))
    assert "no data for training" in charts.svg(curves.chart({}, "t"))


def test_every_metric_that_the_trainer_writes_is_defined() -> None:
    """What steps add by name, in the trainer's own code, and what a step's row has beside."""
    written = set(Metrics({"reward_desirable": (1.0, 1.0), "reward_undesirable": (1.0, 1.0)}).shown())
    for path in sorted((Path(curves.__file__).parents[2] / "train").glob("*.py")):
        for name in re.findall(r'metrics\.add\(f?"([a-z_{}]+)"', path.read_text()):
            written |= {name.replace("{origin}", o) for o in ("source", "generated", "noise")} if "{" in name else {name}
    written |= set(re.findall(r'^        "(\w+)": ', (Path(curves.__file__).parents[2] / "train/loop.py").read_text(), re.M))
    assert {"loss", "lr", "grad_norm", "margin", "draw_noise", "ess"} <= written
    assert written - set(curves.COUNTERS) <= set(curves.METRICS), written - set(curves.METRICS)
    assert set(curves.SHOWN) <= set(curves.METRICS)


def test_the_stage_reads_every_run_of_the_recipe(tmp_path: Path) -> None:
    results = Results(validate_recipe(TOY, "t"), STAGES, tmp_path / "results")
    for place, name in enumerate(results.settings.runs):
        path = results.path(places.metrics(name))
        path.parent.mkdir(parents=True)
        path.write_text("".join(json.dumps(r) + "\n" for r in (SFT if place < 2 else DPO)))
    run_stages(results, "curves")
    text = results.path(places.METRICS_PAGE).read_text()
    assert all(name in text for name in results.settings.runs)
    assert results.path(places.METRICS_CHART).read_bytes().startswith(b"\x89PNG")
    bare = Results(validate_recipe({**TOY, "train": {}, "evaluate": {}, "generate": {}, "score": {}}, "t"), STAGES)
    assert bare.units("curves") == []
