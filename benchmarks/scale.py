"""The data path at the papers' size: every stage in a process of its own, the whole by the workflow beside a script of
datasets.map, and how time grows with the rows.

python benchmarks/scale.py --prompts 182954 --slope 143,1429,14286,182954 > benchmarks/results/scale.jsonl
python benchmarks/render.py

The recipe has no models: sources to published folder, with the configs preference, sets and candidates. Publishing ends with a
scan of all texts for secrets and addresses; measured apart (`scan_s`), it is taken off `stage_s_publish` and `nectar_path_s`.
The targets are those of Nectar's 182,954 prompts; at another size nothing is held against them. Stages are measured with all
shards in one process; what a process used of both processors is in the unit.
"""

import argparse
import json
import math
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import scale_rows
import yaml
from figures import line

from prefdata.recipe.read import read_recipe
from prefdata.stages.registry import STAGES

NECTAR = 182_954
WITHOUT_MODELS = (
    *("sources", "signatures", "dedup", "split", "decontaminate", "prune", "rank"),
    *("noise", "sets", "report", "card", "publish"),
)
TARGETS = {"sources": 22, "publish": 20, "dedup": 15, "report": 10}
OTHERS = 8
USAGE = """
import ctypes, json, os, resource, subprocess, sys, time
ctypes.CDLL(None).prctl(36, 1)  # PR_SET_CHILD_SUBREAPER: what a workflow leaves to die is waited for here, and counted
started = time.perf_counter()
code = subprocess.run(sys.argv[2:], stdout=2, cwd=sys.argv[1]).returncode
took = time.perf_counter() - started
while True:
    try:
        os.wait()
    except ChildProcessError:
        break
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps([took, used.ru_utime, used.ru_stime, used.ru_maxrss / 1024]))
sys.exit(code)
"""
"""A process so small that a fork of it hides nobody's peak: Linux counts what a child had before its exec."""
SCAN = (
    "import sys; from pathlib import Path; from prefdata.output import sensitive; "
    "print(sum(1 for _ in sensitive.in_files(sorted(Path(sys.argv[1]).rglob('*.parquet')), ['/no/such/place'])))"
)
PREFDATA = [sys.executable, "-P", "-m", "prefdata"]


@dataclass(frozen=True)
class Used:
    """Of one process and its children: seconds on the clock, of a processor for itself and for the system; MiB at most."""

    wall: float
    user: float
    system: float
    rss: float

    def said(self) -> str:
        return f"s, {self.user:.1f} user + {self.system:.1f} system, {self.rss:.0f} MiB"


def used(folder: Path, *command: str) -> Used:
    """Run a command in a folder. Raises RuntimeError with its last words."""
    done = subprocess.run([sys.executable, "-c", USAGE, str(folder), *command], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr[-2000:]}")
    return Used(*json.loads(done.stdout))


def recipe(folder: Path, name: str, rows: Path, shards: int) -> Path:
    """No references; duplicates looked for, and evaluation questions."""
    known = folder / "evaluation.jsonl"
    known.write_text("".join(json.dumps({"prompt": f"question {n} " + "of no prompt " * 8}) + "\n" for n in range(1000)))
    settings = {
        "name": name,
        "num_shards": shards,
        "shards_per_job": max(1, shards // 2),
        "sources": {"sources": [{"name": "rows", "path": str(rows), "license": "apache-2.0"}], "max_reject_rate": 0.2},
        "decontaminate": {"against": [{"name": "mine", "path": str(known)}]},
    }
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return path


def stages(folder: Path, path: Path, prompts: int) -> float:
    """Each stage by itself; the largest peak in MiB."""
    settings, largest = read_recipe(path), 0.0
    for stage in WITHOUT_MODELS:
        units = STAGES[stage].units(settings)
        for unit in units:
            own = ["--unit", unit] if len(units) > 1 else []
            took = used(folder, *PREFDATA, stage, "--settings", str(path), *own)
            if stage == "publish":
                scan = used(folder, sys.executable, "-c", SCAN, str(folder / "results" / settings.name / "publish"))
                line("scan_s", scan.wall, scan.said(), "")
            largest = max(largest, took.rss)
            target = f"<= {TARGETS.get(stage, OTHERS)}" if prompts == NECTAR else ""
            wall = took.wall - (scan.wall if stage == "publish" else 0)
            line(f"stage_s_{stage}{'_' + unit if own else ''}", wall, took.said(), target)
    return largest


def path_of(folder: Path, rows: Path, shards: int, round_: int) -> Used:
    """The whole by the workflow with two workers, from nothing."""
    made = recipe(folder, f"path{round_}", rows, shards)
    return used(folder, *PREFDATA, "run", str(made), "publish", "--cores", "2", "-q", "all")


def whole(folder: Path, rows: Path, args: argparse.Namespace) -> None:
    """The path and the peer in turns."""
    ours, peers = list[Used](), list[Used]()
    for round_ in range(args.rounds):
        ours.append(path_of(folder, rows, args.shards, round_))
        with tempfile.TemporaryDirectory(dir=folder) as cache:
            peers.append(used(folder, sys.executable, str(Path(__file__).with_name("map_peer.py")), str(rows), cache, "2"))
    scan = used(folder, sys.executable, "-c", SCAN, str(folder / "results" / "path0" / "publish"))
    path, peer = (median(u.wall for u in taken) for taken in (ours, peers))
    at_size = args.prompts == NECTAR
    said = f"{ours[0].said()}; the scan is {scan.wall:.1f} s of {path:.1f}"
    line("nectar_path_s", path - scan.wall, said, "<= 120" if at_size else "")
    line("map_peer_s", peer, peers[0].said(), "")
    line("nectar_over_map", (path - scan.wall) / peer, "x a script of datasets.map", "<= 9.5" if at_size else "")
    of_processor = median(u.user + u.system for u in ours) - scan.user - scan.system
    ratio = of_processor / median(u.user + u.system for u in peers)  # what counts where others use the machine
    line("nectar_over_map_cpu", ratio, "x the script, seconds of a processor", "<= 9.5" if at_size else "")
    line("rss_mb_path", max(u.rss for u in ours), "MiB, largest process of the workflow", "<= 600")


def slope(folder: Path, sizes: list[int], shards: int) -> None:
    """Of log time against log rows, by least squares; a run of two prompts is the start-up."""
    taken = {}
    for size in [2, *sizes]:
        rows = folder / f"slope{size}.jsonl"
        scale_rows.write(rows, size)
        took = path_of(folder, rows, shards, size)
        taken[size] = took.user + took.system
        line(f"path_cpu_s_{size * scale_rows.ANSWERS}", taken[size], took.said(), "")
    points = [(math.log(size), math.log(max(taken[size] - taken[2], 1e-3))) for size in sizes]
    mx, my = (sum(values) / len(points) for values in zip(*points, strict=True))
    found = sum((x - mx) * (y - my) for x, y in points) / sum((x - mx) ** 2 for x, _ in points)
    line("slope", found, f"processor time against candidates, {sizes[0] * 7} to {sizes[-1] * 7}", "<= 1.05")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=5000)
    parser.add_argument("--shards", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=1, help="of the whole and the peer in turns")
    parser.add_argument("--parts", default="stages,whole", help="stages, whole, or both")
    parser.add_argument("--slope", default="", help="numbers of prompts; none: the slope is not measured")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder, rows = Path(name), Path(name) / "rows.jsonl"
        what = scale_rows.write(rows, args.prompts)
        size = rows.stat().st_size / 1e6
        print(f"{args.prompts} prompts of {what}, {size:.0f} MB, {args.shards} shards", file=sys.stderr)
        if "stages" in args.parts:
            largest = stages(folder, recipe(folder, "stages", rows, args.shards), args.prompts)
            line("rss_mb", largest, "MiB, largest of the stages", "<= 600")
        if "whole" in args.parts:
            whole(folder, rows, args)
        if args.slope:
            slope(folder, [int(n) for n in args.slope.split(",")], args.shards)


if __name__ == "__main__":
    main()
