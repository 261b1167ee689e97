"""The real `snakemake --report` holds every page and picture with its caption."""

from pathlib import Path

from runs import Workflow

from prefdata.workflow import captions


def test_the_report_shows_pages_and_pictures_with_their_captions(base: Workflow, tmp_path: Path) -> None:
    base.run("--report", str(tmp_path / "report.html"))
    text = (tmp_path / "report.html").read_text()
    made = [str(p) for p in base.root.rglob("*") if p.is_file()]
    shown = {row for path in made if (row := captions.shown(path, base.root)) is not None}
    assert {row.category for row in shown} == {"The set", "Judges", "Training", "Trained models"}
    for row in shown:
        first = (captions.CAPTIONS / f"{row.caption}.rst").read_text().split("\n")[0].partition("``")[0]
        assert first in text, row.caption
