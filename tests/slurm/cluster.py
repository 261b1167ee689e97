"""A real Slurm on this machine: a controller and some nodes, each with a device that is only a name.

    python tests/slurm/cluster.py       starts one of two nodes, says how to use it, stops it at Ctrl-C

Wants root and Debian's packages (PACKAGES); `missing` says what stands in the way, `install` fetches them. All state lies in one
temporary folder, ports are free ones, and no file of /etc is touched: several may run beside each other, and beside a Slurm that
is there already. Daemons die with the process that started them.
"""

import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PACKAGES = ("slurmctld", "slurmd", "slurm-client", "munge")
PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "srun", "scontrol")
WAIT_S = 60
MEMORY_MB = 32_000
"""Of a node, whatever the machine has: rules ask for some GB, the tests' jobs take less, and none is held to it."""
CONFIGURATION = """\
ClusterName=prefdata
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
CryptoType=crypto/munge
StateSaveLocation={folder}/controller
SlurmctldPidFile={folder}/controller/pid
SlurmdPidFile={folder}/%n/pid
SlurmdSpoolDir={folder}/%n/spool
SlurmctldLogFile={folder}/controller/log
SlurmdLogFile={folder}/%n/log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SchedulerParameters=sched_interval=1,sched_min_interval=100000,bf_interval=1,batch_sched_delay=0
AccountingStorageType=accounting_storage/none
GresTypes=gpu
ReturnToService=2
KillWait=5
MinJobAge=300
"""


def missing() -> str | None:
    """Why there can be no Slurm here, in words; None where there can."""
    if not sys.platform.startswith("linux"):
        return "Slurm runs on Linux"
    if os.geteuid() != 0:
        return "Slurm's daemons want root"
    if absent() and shutil.which("apt-get") is None:
        return f"there is no {absent()[0]}, and no apt-get to install it"
    return None


def absent() -> list[str]:
    """Programs that are not installed. Daemons lie where a user's PATH may not look."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    return [name for name in PROGRAMS if shutil.which(name, path=path) is None]


def install() -> None:
    """Debian's packages; their services are not started. Raises CalledProcessError."""
    command = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *PACKAGES]
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}  # in runlevel 1 no service is started
    for step in (["apt-get", "update", "-qq"], command):
        subprocess.run(step, env=quiet, check=True, stdout=subprocess.DEVNULL)


class Cluster:
    """Nodes n1, n2, ..., all on this machine."""

    def __init__(self, folder: Path, nodes: int = 2) -> None:
        self.folder, self.nodes = folder, [f"n{i + 1}" for i in range(nodes)]
        self.conf = folder / "slurm.conf"
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def environment(self) -> dict[str, str]:
        """What a client needs; a job inherits it, but for what Snakemake's plugin takes from it: hence an srun of our own."""
        return {"SLURM_CONF": str(self.conf), "PATH": f"{self.folder}/bin:{os.environ['PATH']}"}

    def start(self) -> None:
        """Start all daemons; returns when every node is idle."""
        self.folder.chmod(0o755)  # munge wants its socket within reach of every user
        for name in ("munge", "controller", "bin", *self.nodes):
            (self.folder / name).mkdir()
        srun = self.folder / "bin" / "srun"
        srun.write_text(f'#!/bin/sh\nSLURM_CONF={self.conf} exec {shutil.which("srun")} "$@"\n')
        srun.chmod(0o755)
        self.conf.write_text(self._configuration())
        (self.folder / "gres.conf").write_text("".join(f"NodeName={n} Name=gpu File=/dev/null\n" for n in self.nodes))
        key = self.folder / "munge" / "key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        places = {"socket": "socket", "key-file": "key", "pid-file": "pid", "seed-file": "seed", "log-file": "log"}
        words = [f"--{option}={self.folder}/munge/{file}" for option, file in places.items()]
        self._daemon("munged", "munged", "--foreground", *words)
        until(lambda: (self.folder / "munge" / "socket").exists(), "munge answers")
        self._daemon("controller", "slurmctld", "-D", "-c")
        for node in self.nodes:
            self.start_node(node)

    def _configuration(self) -> str:
        host, (port, *ports) = socket.gethostname().partition(".")[0], free_ports(1 + len(self.nodes))
        node = f"NodeHostname={host} NodeAddr=127.0.0.1 CPUs=1 RealMemory={MEMORY_MB} Gres=gpu:1 State=UNKNOWN"
        listed = [f"NodeName={name} Port={port} {node}" for name, port in zip(self.nodes, ports, strict=True)]
        partition = f"PartitionName=main Nodes={','.join(self.nodes)} Default=YES MaxTime=INFINITE State=UP"
        return "\n".join([CONFIGURATION.format(host=host, port=port, folder=self.folder), *listed, partition, ""])

    def _daemon(self, name: str, *words: str) -> None:
        program = shutil.which(words[0], path="/usr/sbin:/sbin:/usr/bin")
        assert program is not None, words[0]
        with (self.folder / f"{name}.out").open("ab") as said:
            self._daemons[name] = subprocess.Popen(
                [program, *words[1:]],
                stdout=said,
                stderr=said,
                stdin=subprocess.DEVNULL,
                env={**os.environ, **self.environment},
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )

    # ---- nodes ----

    def start_node(self, node: str) -> None:
        """Switch a node on; returns when it is idle."""
        self._daemon(node, "slurmd", "-D", "-N", node)
        if self.state(node) not in ("", "idle", "unknown"):
            self.call("scontrol", "update", f"nodename={node}", "state=resume", check=False)
        until(lambda: self.state(node) == "idle", f"{node} is idle", lambda: self.logs())

    def kill_node(self, node: str) -> None:
        """What a power cut does: all processes of the node are gone at once, and Slurm finds it down."""
        for pid in self.processes(node):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._daemons.pop(node).wait()
        self.call("scontrol", "update", f"nodename={node}", "state=down", "reason=killed")

    def state(self, node: str) -> str:
        """idle, allocated, down, ...; empty while the controller does not answer."""
        done = self.call("sinfo", "--noheader", "--nodes", node, "--format", "%T", check=False)
        return done.stdout.strip().rstrip("*")

    def processes(self, node: str = "") -> list[int]:
        """Living processes of a node, or of the whole cluster: those of its jobs, and those that have its files open."""
        place, found = f"{self.folder}/{node}/" if node else f"{self.folder}/", []
        for entry in entries():
            with suppress(OSError):
                here = environment(entry)
                of_job = here.get("SLURM_CONF") == str(self.conf) and node in ("", here.get("SLURMD_NODENAME"))
                if of_job or any(os.readlink(f).startswith(place) for f in (entry / "fd").iterdir()):
                    found.append(int(entry.name))
        return found

    def of_stage(self, stage: str) -> dict[int, dict[str, str]]:
        """The environment of each process of a job that runs this stage."""
        found = {}
        for entry in entries():
            with suppress(OSError):
                if (entry / "cmdline").read_bytes().split(b"\0")[1:5] == [b"-P", b"-m", b"prefdata", stage.encode()]:
                    here = environment(entry)
                    if here.get("SLURM_CONF") == str(self.conf) and "SLURM_JOB_ID" in here:
                        found[int(entry.name)] = here
        return found

    # ---- clients ----

    def call(self, *words: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
        """One of Slurm's clients."""
        return subprocess.run(
            words, env={**os.environ, **self.environment}, capture_output=True, text=True, check=check, timeout=WAIT_S
        )

    def jobs(self) -> dict[str, tuple[str, str]]:
        """State and comment (rule_<name>) of each job that is not over."""
        lines = self.call("squeue", "--noheader", "--format", "%A|%T|%k").stdout.splitlines()
        return {number: (state, comment) for number, state, comment in (line.split("|") for line in lines)}

    def logs(self) -> str:
        """The last words of every daemon."""
        texts = [(p, p.read_text(errors="replace")) for p in [*self.folder.glob("*.out"), *self.folder.glob("*/log")]]
        return "\n".join(f"== {path}\n{text[-1500:]}" for path, text in texts)

    def stop(self) -> None:
        """End jobs and daemons; nothing of the cluster runs afterwards."""
        with suppress(subprocess.SubprocessError):
            self.call("scancel", "--user", "root", check=False)
        for daemon in reversed(self._daemons.values()):
            daemon.terminate()
        for daemon in self._daemons.values():
            with suppress(subprocess.TimeoutExpired):
                daemon.wait(10)
        for pid in self.processes():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for daemon in self._daemons.values():
            daemon.wait()


@contextmanager
def running(nodes: int = 2) -> Iterator[Cluster]:
    """A cluster for the length of the block. Raises CalledProcessError where the packages cannot be installed."""
    if absent():
        install()
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))  # a short path: a socket's may have 107 bytes
    cluster = Cluster(folder, nodes)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
        shutil.rmtree(folder, ignore_errors=True)


def entries() -> Iterator[Path]:
    """What /proc has of each other process."""
    return (e for e in Path("/proc").iterdir() if e.name.isdigit() and int(e.name) != os.getpid())


def environment(entry: Path) -> dict[str, str]:
    """What a process was started with. Raises OSError where it is gone."""
    words = (entry / "environ").read_bytes().decode(errors="replace").split("\0")
    return dict(w.partition("=")[::2] for w in words if w)


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on."""
    held = [socket.socket() for _ in range(count)]
    for one in held:
        one.bind(("127.0.0.1", 0))
    ports = [int(one.getsockname()[1]) for one in held]
    for one in held:
        one.close()
    return ports


def until(true: Callable[[], object], what: str, else_say: Callable[[], str] = str, wait_s: float = WAIT_S) -> None:
    """Wait for it. Raises TimeoutError, which names it."""
    deadline = time.monotonic() + wait_s
    while not true():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {wait_s} s: {what}\n{else_say()}")
        time.sleep(0.1)


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


if __name__ == "__main__":
    if reason := missing():
        sys.exit(reason)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    with running() as here:
        print(f"export SLURM_CONF={here.conf} PATH={here.folder}/bin:$PATH", flush=True)
        with suppress(KeyboardInterrupt):
            signal.pause()
