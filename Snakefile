# The workflow lies in the package: `prefdata run RECIPE` runs it from any folder, this file runs it in a checkout.
#
#   snakemake                                   the embedded demo
#   snakemake --configfile config/mine.yaml     a recipe of your own
#   snakemake set --configfile ...              up to there: set, train_all, publish, demo (everything, the default)
from importlib.resources import files

if not workflow.configfiles:

    configfile: "config/demo.yaml"


include: str(files("prefdata.workflow") / "Snakefile")


# an include leaves the main file's own default, and there is none
workflow.default_target = "demo"
