"""`prefdata cost` on the command line."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import typer

from prefdata.recipe.work import Extent, OfTraining
from prefdata.workflow import run
from prefdata.workflow.recipes import results_of


def of(training: Sequence[OfTraining]) -> Callable[..., None]:
    """The command, which asks each of `training` what the recipe's training runs take."""

    def cost(
        recipe: Annotated[str, typer.Argument(help="a recipe (YAML), or the name of one that comes with prefdata")],
        prompts: Annotated[
            float | None, typer.Option(min=1, help="of all sources and splits together; default: known sizes")
        ] = None,
        answers: Annotated[
            float | None, typer.Option(min=0, help="that a prompt of the sources has; default: known sizes")
        ] = None,
        kept: Annotated[float, typer.Option(min=0, max=1, help="share of prompts that duplicates and overlaps leave")] = 1.0,
        prompt_tokens: Annotated[float | None, typer.Option(min=1, help="mean length of a prompt; default: 200")] = None,
        completion_tokens: Annotated[float | None, typer.Option(min=1, help="mean length of an answer; default: 300")] = None,
        gpu_hour: Annotated[
            float | None, typer.Option(min=0, help="price of one GPU for an hour; default: 3, no quote")
        ] = None,
        price_in: Annotated[float | None, typer.Option(min=0, help="per million tokens that a server reads")] = None,
        price_out: Annotated[float | None, typer.Option(min=0, help="per million tokens that a server writes")] = None,
        params: Annotated[
            list[str] | None, typer.Option("--params", help="MODEL=SIZE (8B) where its config or name does not say; repeatable")
        ] = None,
        rate: Annotated[
            list[str] | None, typer.Option("--rate", help="NAME=SHARE of the peak, such as write.vllm=0.15; repeatable")
        ] = None,
        rates: Annotated[
            Path | None, typer.Option("--rates", help="YAML that replaces keys of the rates that come with it")
        ] = None,
        as_json: Annotated[bool, typer.Option("--json", help="print the figures as JSON")] = False,
    ) -> None:
        """Reckon the GPU hours and the money that a recipe takes, before anything is run.

        Tokens follow from the recipe and from what is assumed of its data; FLOPs are 2 a parameter and token forward, 6 with
        backward; hours come from shares of a GPU's peak, measured where this project could, assumed elsewhere, and the table
        says which. Two figures give the least and the most by those shares; lengths scale all of it. `prefdata memory` says
        what training takes of each GPU's memory.

        \b
        prefdata cost base                                 what it takes as it stands
        prefdata cost mine.yaml --prompts 20000 --answers 2 --completion-tokens 500
        prefdata cost online --rate write.vllm=0.15 --gpu-hour 2.2
        """
        from prefdata.workflow import cost as reckoning
        from prefdata.workflow import rates as known

        lengths = {"prompt": prompt_tokens, "completion": completion_tokens}
        own = {k: v for k, v in lengths.items() if v is not None}
        of_device = known.load(rates, rate or [], lengths=own, gpu_hour=gpu_hour)
        extent = Extent(of_device.lengths, of_device.sizes, prompts, answers, kept)
        settings, sizes = results_of(run.recipe_file(recipe)).settings, known.pairs(params or [], "--params")
        found = reckoning.cost(settings, extent, of_device, training, sizes, (price_in, price_out))
        if as_json:
            print(json.dumps(reckoning.facts(found), indent=1))
            return
        print(reckoning.render(found))
        if settings.runs:
            print(f"\nWhether training fits its GPUs: prefdata memory {recipe} --gpus 8 --gib 80")

    return cost
