"""A run in several processes of this machine: the command becomes torchrun, which starts it again as each rank.

Nobody outlives the workflow: torchrun is the process that the workflow started (exec keeps its number, and that it is killed
with its parent), and the ranks are told to be killed with torchrun. Several machines are the scheduler's matter: who sets
WORLD_SIZE, as `srun torchrun --nnodes` does, starts the ranks, and nothing is started here.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from prefdata.progress import RUN_PID

STOP_S = 3600
"""How long ranks may take for the step at hand and its checkpoint after a SIGTERM, in seconds; torchrun's own is 30. Where a
rank fails or is killed the others still have 30."""
SERVED = "PREFDATA_WARM"
"""Where the process listens that forks for a workflow's jobs (prefdata.workflow.warm). A rank is torchrun's child, no fork."""


def is_rank() -> bool:
    """Whether torchrun or a scheduler started this process as one of several."""
    return "WORLD_SIZE" in os.environ


def command(processes: int, words: Sequence[str]) -> list[str]:
    """torchrun's call of `prefdata WORDS` in so many processes."""
    torchrun = [sys.executable, "-P", "-m", "train.launch", "--standalone", "--nproc-per-node", str(processes)]
    own = ["--signals-to-handle", "SIGTERM", "--shutdown-timeout", str(STOP_S)]
    own += ["--no-python", "--"]  # without the last --run is torchrun's --run-path, cut short
    plain = [word.replace("$", "$$") for word in words]  # it fills in ${local_rank}
    return [*torchrun, *own, sys.executable, "-P", "-m", "prefdata", *plain]


def become_torchrun(processes: int, words: Sequence[str], log: Path | None) -> None:
    """Never returns. What torchrun and all ranks say on stderr goes to `log` too."""
    if log is not None:
        _also_to(log)
    os.environ[RUN_PID] = str(os.getpid())
    os.environ.pop(SERVED, None)
    sys.stdout.flush()
    sys.stderr.flush()
    call = command(processes, words)
    os.execv(call[0], call)


def _also_to(log: Path) -> None:
    """Let stderr of this process and of its children be written to a file as well. The writer goes on until the last of them
    has ended, whatever signal comes before: what a stopped run says is worth most."""
    log.parent.mkdir(parents=True, exist_ok=True)
    sys.stderr.flush()
    ends = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)  # the writer never gets them, this process later
    writer = subprocess.Popen(["tee", "--", str(log)], stdin=subprocess.PIPE, stdout=2)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ends)
    assert writer.stdin is not None
    os.dup2(writer.stdin.fileno(), 2)


def torchrun(words: Sequence[str]) -> int:
    """torchrun itself; the exit code of the rank that failed first, which has said why where it could."""
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C waits for nobody: it ends this process, and with it the ranks
    try:
        run.run(run.parse_args(list(words)))  # type: ignore[no-untyped-call]
    except SignalException as ended:
        return 128 + ended.sigval
    except ChildFailedError as error:
        rank, first = error.get_first_failure()
        if first.exitcode >= 0:
            return first.exitcode
        by = signal.Signals(-first.exitcode).name
        print(f"error: rank {rank} (process {first.pid}) was killed by {by}; the same command goes on", file=sys.stderr)
        return 128 - first.exitcode
    return 0


if __name__ == "__main__":
    sys.exit(torchrun(sys.argv[1:]))
