# The DAG of a recipe: one rule a stage (one per unit and group for stages that start an engine), no logic. What a stage
# reads, writes and is re-run for is declared in prefdata/stages.py; `prefdata STAGE --help` says what it does.
#
#   snakemake                                   the embedded demo
#   snakemake --configfile config/mine.yaml     a recipe of your own
#   snakemake set --configfile ...              up to there: set, train_all, publish, demo (everything, the default)
from pathlib import Path

from prefdata.workflow import snakefile as house
from train import workflow as training
from train.settings import validate

if not workflow.configfiles:

    configfile: "config/demo.yaml"


run = house.load(config, validate)
out = run.root


container: "docker://python:3.11-slim"


onstart:
    house.begin(run)


onsuccess:
    house.finish(run)


onerror:
    house.failed(run)


wildcard_constraints:
    shard=r"\d{5}-of-\d{5}",


localrules:
    demo,
    set,
    train_all,


rule demo:
    input:
        run.root / "publish" / "receipt.json",
        run.root / "report" / "summary.txt",
        house.judge_report_files(run),
        [run.model_files(f"run:{name}") for name in run.settings.train.runs],


rule set:
    input:
        run.outputs("sets", "preference"),


rule train_all:
    input:
        [run.model_files(f"run:{name}") for name in run.settings.train.runs],


if run.settings.toy:

    rule toy:
        output:
            update(house.toy_files(run)),
        log:
            out / "logs/toy.log",
        params:
            trigger=run.trigger("toy"),
        shell:
            "exec prefdata toy --log {log}"


rule sources:
    input:
        house.source_files(run),
    output:
        update(run.outputs("sources")),
    log:
        out / "logs/sources.log",
    params:
        trigger=run.trigger("sources"),
    shell:
        "exec prefdata sources --log {log}"


if run.units("dedup"):

    rule signatures:
        input:
            run.inputs("signatures", shards=["{shard}"]),
        output:
            update(run.outputs("signatures", shards=["{shard}"])),
        log:
            out / "logs/signatures/{shard}.log",
        params:
            trigger=run.trigger("signatures"),
        shell:
            "exec prefdata signatures --shards {wildcards.shard} --log {log}"

    rule dedup:
        input:
            run.inputs("dedup"),
        output:
            update(run.outputs("dedup")),
        log:
            out / "logs/dedup.log",
        params:
            trigger=run.trigger("dedup"),
        shell:
            "exec prefdata dedup --log {log}"


rule split:
    input:
        run.inputs("split", shards=["{shard}"]),
    output:
        update(run.outputs("split", shards=["{shard}"])),
    log:
        out / "logs/split/{shard}.log",
    params:
        trigger=run.trigger("split"),
    shell:
        "exec prefdata split --shards {wildcards.shard} --log {log}"


if run.units("decontaminate"):

    rule decontaminate:
        input:
            run.inputs("decontaminate", shards=["{shard}"]),
            house.evaluation_files(run),
        output:
            update(run.outputs("decontaminate", shards=["{shard}"])),
        log:
            out / "logs/decontaminate/{shard}.log",
        params:
            trigger=run.trigger("decontaminate"),
        shell:
            "exec prefdata decontaminate --shards {wildcards.shard} --log {log}"


rule prune:
    input:
        run.inputs("prune", shards=["{shard}"]),
    output:
        update(run.outputs("prune", shards=["{shard}"])),
    log:
        out / "logs/prune/{shard}.log",
    params:
        trigger=run.trigger("prune"),
    shell:
        "exec prefdata prune --shards {wildcards.shard} --log {log}"


for unit, group in run.engine_jobs("generate"):

    rule:
        name:
            f"generate_{unit}_{group[0]}"
        input:
            run.inputs("generate", unit, group),
        output:
            update(run.outputs("generate", unit, group)),
        log:
            out / "logs/generate" / unit / f"{group[0]}.log",
        resources:
            gpu=run.gpus("generate", unit),
        params:
            trigger=run.trigger("generate", unit),
            unit=unit,
            shards=",".join(map(str, group)),
        shell:
            "exec prefdata generate --unit {params.unit} --shards {params.shards} --log {log}"


for unit, group in run.engine_jobs("judge"):

    rule:
        name:
            f"judge_{unit}_{group[0]}"
        input:
            run.inputs("judge", unit, group),
        output:
            update(run.outputs("judge", unit, group)),
        log:
            out / "logs/judge" / unit / f"{group[0]}.log",
        resources:
            gpu=run.gpus("judge", unit),
        params:
            trigger=run.trigger("judge", unit),
            unit=unit,
            shards=",".join(map(str, group)),
        shell:
            "exec prefdata judge --unit {params.unit} --shards {params.shards} --log {log}"


for unit in run.units("judge_report"):

    rule:
        name:
            f"judge_report_{unit}"
        input:
            run.inputs("judge_report", unit),
        output:
            update(house.judge_report_file(run, unit)),
        log:
            out / "logs/judge_report" / f"{unit}.log",
        params:
            trigger=run.trigger("judge_report", unit),
            unit=unit,
        shell:
            "exec prefdata judge_report --unit {params.unit} --log {log}"


for unit in run.units("rank"):

    rule:
        name:
            f"rank_{unit}"
        input:
            run.inputs("rank", unit, ["{shard}"]),
        output:
            update(run.outputs("rank", unit, ["{shard}"])),
        log:
            out / "logs/rank" / unit / "{shard}.log",
        params:
            trigger=run.trigger("rank", unit),
            unit=unit,
        shell:
            "exec prefdata rank --unit {params.unit} --shards {wildcards.shard} --log {log}"


rule noise:
    input:
        run.inputs("noise", shards=["{shard}"]),
    output:
        update(run.outputs("noise", shards=["{shard}"])),
    log:
        out / "logs/noise/{shard}.log",
    params:
        trigger=run.trigger("noise"),
    shell:
        "exec prefdata noise --shards {wildcards.shard} --log {log}"


for unit, group in run.engine_jobs("score"):

    rule:
        name:
            f"score_{unit}_{group[0]}"
        input:
            run.inputs("score", unit, group),
        output:
            update(run.outputs("score", unit, group)),
        log:
            out / "logs/score" / unit / f"{group[0]}.log",
        resources:
            gpu=1,
        params:
            trigger=run.trigger("score", unit),
            unit=unit,
            shards=",".join(map(str, group)),
        shell:
            "exec prefdata score --unit {params.unit} --shards {params.shards} --log {log}"


for unit in run.units("sets"):

    rule:
        name:
            f"sets_{unit}"
        input:
            run.inputs("sets", unit, ["{shard}"]),
        output:
            update(run.outputs("sets", unit, ["{shard}"])),
        log:
            out / "logs/sets" / unit / "{shard}.log",
        params:
            trigger=run.trigger("sets", unit),
            unit=unit,
        shell:
            "exec prefdata sets --unit {params.unit} --shards {wildcards.shard} --log {log}"


for name in run.settings.train.runs:

    rule:
        name:
            training.rule_name(name)
        input:
            training.inputs(run, name),
        output:
            update(training.outputs(run, name)),
        log:
            out / "logs/train" / f"{name}.log",
        resources:
            gpu=1,
        params:
            trigger=training.trigger(run, name),
            name=name,
        shell:
            "exec python -m train --run {params.name} --log {log}"


for unit, group in run.engine_jobs("evaluate"):

    rule:
        name:
            f"evaluate_{unit}_{group[0]}"
        input:
            run.inputs("evaluate", unit, group),
        output:
            update(run.outputs("evaluate", unit, group)),
        log:
            out / "logs/evaluate" / unit / f"{group[0]}.log",
        resources:
            gpu=1,
        params:
            trigger=run.trigger("evaluate", unit),
            unit=unit,
            shards=",".join(map(str, group)),
        shell:
            "exec prefdata evaluate --unit {params.unit} --shards {params.shards} --log {log}"


if run.units("win_rate"):

    rule win_rate:
        input:
            run.inputs("win_rate"),
        output:
            update(house.win_rate_files(run)),
        log:
            out / "logs/win_rate.log",
        resources:
            gpu=run.gpus("win_rate", "all"),
        params:
            trigger=run.trigger("win_rate"),
        shell:
            "exec prefdata win_rate --log {log}"


rule report:
    input:
        run.inputs("report") + run.inputs("publish"),
    output:
        update(house.report_files(run)),
    log:
        out / "logs/report.log",
    params:
        trigger=run.trigger("report"),
    shell:
        "exec prefdata report --log {log}"


rule summary:
    input:
        out / "report/report.json",
        house.judge_report_files(run),
        house.win_rate_files(run),
        run.inputs("summary"),
    output:
        update(out / "report/evaluation.json"),
        update(out / "report/summary.txt"),
    log:
        out / "logs/summary.log",
    params:
        trigger=run.trigger("summary"),
    shell:
        "exec prefdata summary --log {log}"


rule card:
    input:
        out / "report/report.json",
        out / "report/quality.json",
    output:
        update(out / "publish/card.md"),
    log:
        out / "logs/card.log",
    params:
        trigger=run.trigger("card"),
    shell:
        "exec prefdata card --log {log}"


rule publish:
    input:
        rules.card.output,
        run.inputs("publish"),
    output:
        update(out / "publish/receipt.json"),
    log:
        out / "logs/publish.log",
    params:
        trigger=run.trigger("publish"),
    shell:
        "exec prefdata publish --log {log}"
