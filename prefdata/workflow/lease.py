"""A job's own devices: taken before a library looks at them, free again when the last process that has them is gone.

Each device has a file in one folder of the user, and is somebody's while that file is locked (flock). The files of all devices
of a lease are links to one file, so that one descriptor holds them: the job's standard input, which children inherit however
they are started, where Popen, torchrun and multiprocessing close what is beyond the first three. An engine that outlives its
job therefore keeps its devices.
"""

import fcntl
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from urllib.parse import quote

from prefdata.errors import ConfigError, printable
from prefdata.tables.locks import lock
from prefdata.workflow import devices

FOLDER = "PREFDATA_LEASES"
"""Another folder than /tmp/prefdata-<uid>/devices. TMPDIR does not count: Snakemake and people set it for single jobs."""
LEASED = "PREFDATA_LEASED"
"""Set in a process that has a lease, for its children: they use the same devices."""
POLL_S, SAID_S = 0.2, 60.0


def lease(count: int) -> list[str]:
    """Take `count` of the visible devices, all or none, wait for them where others have them, and let CUDA see these only.

    Their names; none where no device is asked for, none is visible, or the process that started this one has a lease already.
    Raises ConfigError where fewer are visible.
    """
    names = devices.visible()
    if count == 0 or not names or LEASED in os.environ:
        return []
    by_file = {_file(identity): name for identity, name in zip(devices.identities(names), names, strict=True)}
    if count > len(by_file):
        raise ConfigError(
            f"the job needs {count} devices, {len(by_file)} are visible",
            devices.VISIBLE,
            "ask for fewer (processes, tensor_parallel), or run it where there are more",
        )
    descriptor, taken = _taken(_folder(), {name: file for file, name in by_file.items()}, count)
    _inherit(descriptor)
    os.environ[devices.VISIBLE], os.environ[LEASED] = ",".join(taken), ",".join(taken)
    return taken


def _file(identity: str) -> str:
    return f"device-{quote(identity, safe='')}"


def _folder() -> Path:
    if FOLDER in os.environ:
        folder = Path(os.environ[FOLDER])
        folder.mkdir(parents=True, exist_ok=True)
        return folder
    own = Path(f"/tmp/prefdata-{os.getuid()}")
    own.mkdir(mode=0o700, exist_ok=True)
    if own.is_symlink() or own.stat().st_uid != os.getuid():  # anybody may make one of this name
        raise ConfigError("the folder is another user's", str(own), f"name one of your own by {FOLDER}")
    folder = own / "devices"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def _taken(folder: Path, files: dict[str, str], count: int) -> tuple[int, list[str]]:
    """The locked descriptor of the lease, and its devices. Requests that share a device are served in their order."""
    with _ticket(folder, files.values()) as ticket:
        said = time.monotonic() - SAID_S
        while True:
            with _gate(folder):
                ahead = _ahead(folder, ticket)
                free = [name for name in files if not _held(folder / files[name])]
                if len(free) >= count and not ahead:
                    taken = free[:count]
                    return _hold(folder, [folder / files[name] for name in taken]), taken
            if time.monotonic() - said >= SAID_S:
                said = time.monotonic()
                _say(count, {n: folder / file for n, file in files.items() if n not in free}, ahead)
            time.sleep(POLL_S)


def _gate(folder: Path) -> AbstractContextManager[None]:
    """Within: nobody else takes devices or looks for free ones."""
    return lock(folder / "gate", wait_s=60)


def _say(count: int, held: dict[str, Path], ahead: Sequence[Path]) -> None:
    found = [f"{name} is held by {_words(path)}" for name, path in held.items()]
    found += [f"{_words(path)} came before" for path in ahead]
    print(printable(f"waiting for {count} of the devices: {'; '.join(found)}"), file=sys.stderr, flush=True)


def _words(path: Path) -> str:
    """Who has made a file of ours."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").partition("\n")[0]
    except OSError:  # it is gone
        return "nobody now"


def _held(path: Path) -> bool:
    """Whether somebody has the lock of a file. Within the gate only: this takes it for a moment."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _locked(path: Path, text: str) -> int:
    """A new file with its lock, which says whose it is."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    os.write(descriptor, f"process {os.getpid()} ({' '.join(sys.argv[1:])[:200]})\n{text}".encode(errors="replace"))
    return descriptor


def _hold(folder: Path, paths: Sequence[Path]) -> int:
    """The descriptor that holds all of these, whose files were free."""
    made, link = folder / ".lease", folder / ".link"
    for left in (made, link):  # by a process that was killed just here
        left.unlink(missing_ok=True)
    descriptor = _locked(made, "")
    for path in paths:
        os.link(made, link)
        os.replace(link, path)
    made.unlink()
    return descriptor


def _inherit(descriptor: int) -> None:
    """Let children have it: as standard input, at whose end it stands, and by its number where that is kept open."""
    os.set_inheritable(descriptor, True)
    os.dup2(descriptor, 0)


# ---- who came first ----


@contextmanager
def _ticket(folder: Path, files: Iterable[str]) -> Iterator[Path]:
    """A file that is locked while its process waits for one of these devices' files; its name has the time."""
    with _gate(folder):
        path = folder / f"ticket-{time.time_ns():020d}-{os.getpid()}"
        descriptor = _locked(path, "\n".join(files))
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def _ahead(folder: Path, mine: Path) -> list[Path]:
    """Tickets of living processes that came before and wait for one of the same devices; those of dead ones are removed."""
    wanted, ahead = _wanted(mine), []
    for path in sorted(folder.glob("ticket-*")):
        if path.name >= mine.name:
            break
        if not _held(path):
            path.unlink(missing_ok=True)
        elif wanted & _wanted(path):
            ahead.append(path)
    return ahead


def _wanted(path: Path) -> set[str]:
    try:
        return set(path.read_text(encoding="utf-8").splitlines()[1:])
    except OSError:  # it is gone: it was served
        return set()
