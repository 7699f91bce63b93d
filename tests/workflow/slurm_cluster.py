"""A Slurm of one node with one or two pretend GPUs, for the tests.

It is made of Debian's packages, started in a folder of its own and stopped by its pid files.
"""

import os
import re
import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest

GPUS = ("/dev/zero", "/dev/full")  # that pretend to be one
SITE = Path("/etc/slurm")  # jobs strip SLURM_CONF from their environment, so it must be where Slurm looks by itself
MUNGE_PID = Path("/run/munge/munged.pid")
PACKAGES = ("slurm-wlm", "munge")
OURS = "# Written by the tests of why-knnlm, and removed by them.\n"
# The overrides let a small machine pretend to have enough cores and memory for jobs side by side.
CONFIGURATION = """\
ClusterName=local
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=1
JobAcctGatherParams=OverMemoryKill
MinJobAge=100000
KillWait=1
ReturnToService=2
MpiDefault=none
SlurmdParameters=config_overrides
SchedulerParameters=batch_sched_delay=0,sched_interval=1
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs=4 RealMemory=24000 Gres=gpu:{gpus} State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


class Cluster:
    """A running Slurm."""

    def __init__(self, folder: Path, gpus: int = 1):
        """Start it in `folder` with so many GPUs; skips the test, saying why, where that cannot be done."""
        self.folder = folder
        for name in ("state", "spool"):
            (folder / name).mkdir()
        self.started: list[Path] = []
        self.start_munge()
        SITE.mkdir(exist_ok=True)
        host = socket.gethostname()
        (SITE / "slurm.conf").write_text(
            OURS + CONFIGURATION.format(host=host, folder=folder, ports=free_ports(2), gpus=gpus)
        )
        lines = (f"NodeName={host} Name=gpu File={file}\n" for file in GPUS[:gpus])
        (SITE / "gres.conf").write_text(OURS + "".join(lines))
        for command in (["slurmctld", "-c"], ["slurmd"]):
            subprocess.run(command, check=True)
            self.started.append(folder / f"{command[0]}.pid")
        if not waited_for(
            lambda: "idle" in subprocess.run(["sinfo", "--noheader"], capture_output=True, text=True).stdout
        ):
            self.stop()
            pytest.skip("Slurm started, but its node never became idle")

    def start_munge(self) -> None:
        """Start the service by which Slurm's parts know each other, unless it runs."""
        if subprocess.run(["munge", "-n"], capture_output=True).returncode == 0:
            return
        MUNGE_PID.parent.mkdir(exist_ok=True)
        shutil.chown(MUNGE_PID.parent, "munge", "munge")
        subprocess.run(["runuser", "-u", "munge", "--", "munged"], check=True)
        self.started.append(MUNGE_PID)

    def jobs(self, folder: Path) -> list[dict[str, str]]:
        """Return what Slurm recorded of every job that was submitted in a folder, in the order in which they were."""
        text = subprocess.run(
            ["scontrol", "--oneliner", "show", "job"], capture_output=True, text=True, check=True
        ).stdout
        found = [dict(re.findall(r"(\S+?)=(\S*)", line)) for line in text.splitlines() if line.startswith("JobId=")]
        return sorted((job for job in found if Path(job["WorkDir"]) == folder), key=lambda job: int(job["JobId"]))

    def stop(self) -> None:
        """Cancel what still runs, stop what was started, by its pid files, and clean the site's folder."""
        queued = ["squeue", "--noheader", "--format=%A"]
        subprocess.run(
            ["scancel", *subprocess.run(queued, capture_output=True, text=True).stdout.split()], capture_output=True
        )
        waited_for(lambda: not subprocess.run(queued, capture_output=True, text=True).stdout.split())
        for file in reversed(self.started):
            process = int(file.read_text())
            os.kill(process, 15)
            waited_for(lambda process=process: has_ended(process))
        for name in ("slurm.conf", "gres.conf"):
            (SITE / name).unlink()


def free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def has_ended(process: int) -> bool:
    """Return whether a process has ended; one that nobody has asked after since is still listed, as a zombie."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def waited_for(condition, seconds: float = 20) -> bool:
    """Wait until a condition holds; False where it does not in this time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def unavailable() -> str | None:
    """Return why no Slurm can be started here; installs Debian's packages where it may."""
    if os.geteuid() != 0:
        return "starting a Slurm needs root"
    for name in ("slurm.conf", "gres.conf"):
        if (SITE / name).exists() and not (SITE / name).read_text().startswith(OURS):
            return f"{SITE / name} is there: this machine has a Slurm of its own, which the test leaves alone"
    if not all(map(shutil.which, ("slurmctld", "slurmd", "munged", "runuser"))):
        if shutil.which("apt-get") is None:
            return f"Slurm is not installed, and there is no apt-get to install {' '.join(PACKAGES)} with"
        return not_installed()
    return None


def not_installed() -> str | None:
    """Install Debian's packages; return why that failed, None if it did not.

    The second try is with the newest lists of packages, which an image may lack.
    """
    command = ["apt-get", "install", "--yes", "--no-install-recommends", *PACKAGES]
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for before in ([], ["apt-get", "update"]):
        if before:
            subprocess.run(before, capture_output=True, env=environment)
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        if done.returncode == 0:
            return None
    return f"{' '.join(command)} failed: {done.stderr.strip().splitlines()[-1:]}"
