"""Judging behind a server of fixed latency, a process of its own (tests/servers/scripted.py): wall time against the bound,
memory at two sizes, and what the procedures ask.

judge_wall_ratio: seconds of the whole `prefdata judge` process, start-up included, over calls x latency / concurrency; each
reply takes 2 seconds, which is soon for 256 at once. At 1 second one core's 240 calls a second begin to show.

python benchmarks/judge.py >> benchmarks/results/judge.jsonl && python benchmarks/render.py
"""

import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.request import urlopen

import yaml
from data import PEAK
from figures import line

from prefdata.judging.procedures import PROCEDURES
from prefdata.judging.procedures.verdicts import Outcome, Pair
from prefdata.models.engines.server_process import free_port

ROOT = Path(__file__).resolve().parents[1]
COMPARISONS, FEWER = 10_000, 1_000
CONCURRENCY, LATENCY_S, SHORT_S = 256, 2.0, 1.0
WORDS = ("the", "a", "of", "to", "and", "in", "is", "it", "that", "for", "on", "with", "as", "was", "be", "by", "this", "are")


def main() -> None:
    seconds, many, calls, flying = judged(COMPARISONS, LATENCY_S)
    hurried, _, _, _ = judged(COMPARISONS, SHORT_S)
    _, few, _, _ = judged(FEWER, LATENCY_S)
    line("judge_wall_ratio", seconds / (calls * LATENCY_S / CONCURRENCY), "x", "<= 1.15")
    line("judge_wall_ratio_latency_1s", hurried / (calls * SHORT_S / CONCURRENCY), "x", "")
    line("judge_calls", calls, "calls", "")
    line("judge_most_in_flight", flying, "requests", f"<= {CONCURRENCY}")
    line("judge_rss_10k", many / 1024, "MiB", "")
    line("judge_rss_ratio_10k_1k", many / few, "x", "<= 1.3")
    line("knockout_rounds_n7", asked("knockout")[0], "rounds", "<= 3")
    line("champion_calls_n7", asked("champion")[1], "calls per order", "<= 6")


def judged(comparisons: int, latency_s: float) -> tuple[float, int, int, int]:
    """Seconds, peak KiB, calls and the most requests in flight of one judge stage over as many prompts with two answers."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        port = free_port()
        command = [sys.executable, str(ROOT / "tests" / "servers" / "scripted.py"), "--port", str(port)]
        server = subprocess.Popen([*command, "--latency", str(latency_s)])
        try:
            write(place, comparisons, f"http://127.0.0.1:{port}/v1")
            for stage in ("sources", "split", "prune"):
                subprocess.run([sys.executable, "-m", "prefdata", stage, "--settings", "r.yaml"], cwd=place, check=True)
            started = time.perf_counter()
            stage = [sys.executable, "-m", "prefdata", "judge", "--settings", "r.yaml"]
            done = subprocess.run([sys.executable, "-c", PEAK, *stage], cwd=place, check=True, capture_output=True, text=True)
            seconds = time.perf_counter() - started
            with urlopen(f"http://127.0.0.1:{port}/log") as reply:
                told = json.loads(reply.read())
            assert told["calls"] == {} or set(told["calls"].values()) == {1}, "a call was made twice"
            return seconds, int(done.stdout.split()[-1]), told["tries"], told["most_flying"]
        finally:
            server.kill()
            server.wait()


def write(place: Path, prompts: int, url: str) -> None:
    """Prompts of about 60 words with two answers of about 120, and the recipe."""
    rng = random.Random(0)

    def text(words: int) -> str:
        return " ".join(rng.choice(WORDS) for _ in range(rng.randint(words // 2, 3 * words // 2)))

    with (place / "rows.jsonl").open("w") as file:
        for number in range(prompts):
            answers = [{"answer": text(120), "model": f"m{k}", "rank": k} for k in (1, 2)]
            file.write(json.dumps({"prompt": f"\n\nHuman: {number} {text(60)}\n\nAssistant: ", "answers": answers}) + "\n")
    server = {"url": url, "concurrency": CONCURRENCY, "deadline_s": 60}
    recipe = {
        "name": "bench",
        "dedup": None,
        "sources": {"sources": [{"name": "s", "path": "rows.jsonl", "split": "train"}]},
        "prune": {"drop_ranks": []},
        "judge": [{"name": "j", "kind": "pairwise", "model": {"id": "judge", "server": server}}],
        "sets": {"method": "j"},
    }
    (place / "r.yaml").write_text(yaml.safe_dump(recipe))


def asked(name: str) -> tuple[int, int]:
    """Rounds and comparisons of seven candidates."""
    candidates, known, rounds = [f"{i:016x}" for i in range(7)], dict[Pair, Outcome](), 0
    while pairs := PROCEDURES[name].wanted("0" * 16, candidates, known, 0):
        known |= dict.fromkeys(pairs, "a")
        rounds += 1
    return rounds, len(known)


if __name__ == "__main__":
    main()
