"""Which devices are visible, and what tells them apart, whatever they are called."""

import os
import stat
from pathlib import Path

import pytest

from prefdata.progress import BATCH_SYSTEMS
from prefdata.workflow import devices

TWO = "0, GPU-aaaa-1\\n1, GPU-bbbb-2\\n"


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without a driver; its nvidia-smi, where one is written, says what the file says."""
    for name in (devices.VISIBLE, *BATCH_SYSTEMS):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(devices, "DRIVER", tmp_path / "none")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return tmp_path


def nvidia_smi(folder: Path, listed: str, queried: str = TWO) -> None:
    script = folder / "nvidia-smi"
    script.write_text(f'#!/bin/sh\ncase $1 in --list-gpus) printf "{listed}";; *) printf "{queried}";; esac\n')
    script.chmod(script.stat().st_mode | stat.S_IXUSR)


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ("0,1", ["0", "1"]),
        (" 3 , 1", ["3", "1"]),
        ("GPU-aaaa-1,MIG-GPU-x/1/0", ["GPU-aaaa-1", "MIG-GPU-x/1/0"]),
        ("", []),
        ("-1", []),
        ("0,-1,1", ["0"]),
        ("NoDevFiles", []),
        ("1,1", ["1"]),
    ],
)
def test_those_that_are_named_in_their_order(
    machine: Path, monkeypatch: pytest.MonkeyPatch, given: str, names: list[str]
) -> None:
    nvidia_smi(machine, "GPU 0: x\\n" * 8)
    monkeypatch.setenv(devices.VISIBLE, given)
    assert devices.visible() == names
    assert devices.count() == len(names)


def test_all_of_the_machine_where_none_is_named(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert devices.visible() == []
    nvidia_smi(machine, "GPU 0: NVIDIA H100 (UUID: GPU-aaaa-1)\\n  MIG 1g.10gb Device 0: (UUID: MIG-c)\\nGPU 1: x\\n")
    assert devices.visible() == ["0", "1"]
    driver = machine / "driver"
    for bus in ("0000:01:00.0", "0000:02:00.0", "0000:03:00.0"):
        (driver / bus).mkdir(parents=True)
    monkeypatch.setattr(devices, "DRIVER", driver)
    assert devices.visible() == ["0", "1", "2"]


def test_a_device_is_one_whatever_it_is_called(machine: Path) -> None:
    nvidia_smi(machine, "")
    assert devices.identities(["1", "GPU-bbbb-2", "GPU-b", "0", "GPU-", "MIG-x"]) == [
        "GPU-bbbb-2",
        "GPU-bbbb-2",
        "GPU-bbbb-2",
        "GPU-aaaa-1",
        "GPU-",
        "MIG-x",
    ]


def test_numbers_of_different_batch_jobs_are_different_devices_where_no_uuid_is_known(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slurm calls a job's first device 0 where it lets it see no other."""
    assert devices.identities(["0", "a"]) == ["0", "a"]
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    assert devices.identities(["0", "GPU-x"]) == ["17-0", "GPU-x"]
    nvidia_smi(machine, "")
    assert devices.identities(["0"]) == ["GPU-aaaa-1"]


def test_a_broken_nvidia_smi_tells_nothing(machine: Path) -> None:
    script = machine / "nvidia-smi"
    script.write_text("#!/bin/sh\necho 0, GPU-x\nexit 9\n")
    script.chmod(0o755)
    assert devices.visible() == []
    assert devices.identities(["0"]) == ["0"]
    assert os.access(script, os.X_OK)
