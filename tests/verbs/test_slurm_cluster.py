"""The batch file that `slurm` prints, sent to a real SLURM: its daemons run here, on loopback alone.

REDI_LAB_SLURM names a folder with the packages of Debian 12, unpacked as docs/cluster.md says and not installed.
"""

from __future__ import annotations

import getpass
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.verbs.test_slurm import printed
from tests.verbs.train.test_launched import ENVIRONMENT, WEIGHTS, end, free_port, start, wait_for_step
from tests.verbs.train.test_ranks import curves

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
NODES = ("127.0.0.1", "127.0.0.2")  # their names too, for these resolve wherever the test runs
CONFIGURATION = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
AuthInfo=socket={folder}/munge.socket,cred_expire=5
SlurmUser={user}
SlurmdUser={user}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
PluginDir={plugins}
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
MpiDefault=none
NodeName={nodes[0]} NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]}
NodeName={nodes[1]} NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]}
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE
"""
"""A job that is put back may start 5 s later (cred_expire), which is else 2 minutes."""


@dataclass(frozen=True)
class Cluster:
    """Two nodes of one processor each, and what a user types there."""

    environment: dict[str, str]

    def answer(self, *command: str, folder: Path | None = None) -> str:
        done = subprocess.run(command, env=self.environment, cwd=folder, capture_output=True, text=True, timeout=60)
        return done.stdout.strip()

    def submit(self, text: str, folder: Path) -> str:
        (folder / "job.sbatch").write_text(text)
        return self.answer("sbatch", "--parsable", "job.sbatch", folder=folder)

    def job(self, number: str) -> dict[str, str]:
        words = self.answer("scontrol", "--oneliner", "show", "job", number).split()
        return {name: value for name, _, value in (word.partition("=") for word in words)}

    def wait_for(self, state: str, number: str) -> dict[str, str]:
        """The job, once it is in that state, or has come to some end."""
        wait_until(lambda: self.job(number)["JobState"] in (state, "COMPLETED", "FAILED"), 240)
        return self.job(number)

    def end_jobs(self) -> None:
        self.answer("scancel", "--user", getpass.getuser())
        wait_until(lambda: not self.answer("squeue", "-h"), 90)


def wait_until(is_so: Callable[[], bool], seconds: float) -> None:
    began = time.monotonic()
    while not is_so():
        assert time.monotonic() - began < seconds
        time.sleep(0.1)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    packages = Path(os.environ.get("REDI_LAB_SLURM", "nowhere")).resolve()
    programs = packages / "usr" / "sbin"
    if not (programs / "slurmctld-wlm").exists():
        pytest.skip("set REDI_LAB_SLURM to a folder with SLURM's packages unpacked (docs/cluster.md)")
    (plugins,) = packages.glob("usr/lib/*/slurm-wlm")
    folder = tmp_path_factory.mktemp("slurm")
    (folder / "state").mkdir()
    (folder / "munge.key").touch(0o600)
    (folder / "munge.key").write_bytes(os.urandom(1024))
    (folder / "slurm.conf").write_text(
        CONFIGURATION.format(
            host=socket.gethostname().partition(".")[0],
            user=getpass.getuser(),
            ports=[free_port() for _ in range(3)],
            nodes=NODES,
            folder=folder,
            plugins=plugins,
        )
    )
    paths = {
        "PATH": f"{packages / 'usr' / 'bin'}:{os.environ['PATH']}",
        "LD_LIBRARY_PATH": f"{plugins.parent}:{plugins}",
    }
    cluster = Cluster(ENVIRONMENT | paths | {"SLURM_CONF": str(folder / "slurm.conf")})
    secrets = {"socket": "munge.socket", "key-file": "munge.key", "pid-file": "munged.pid", "seed-file": "munge.seed"}
    with ExitStack() as daemons:

        def begin(name: str, *options: str) -> None:
            log = daemons.enter_context((folder / "daemons.log").open("ab"))
            command = [str(programs / name), *options]
            process = subprocess.Popen(command, env=cluster.environment, stdout=log, stderr=subprocess.STDOUT)
            daemons.callback(finish, process)

        begin("munged", "--foreground", "--force", *(f"--{name}={folder / file}" for name, file in secrets.items()))
        wait_until((folder / "munge.socket").exists, 10)
        begin("slurmctld-wlm", "-D")
        for node in NODES:
            begin("slurmd-wlm", "-D", "-N", node, "-d", str(programs / "slurmstepd-wlm"))
        wait_until(lambda: cluster.answer("sinfo", "-h", "-t", "idle", "-o", "%D") == "2", 60)
        daemons.callback(cluster.end_jobs)  # before the daemons, whose jobs would outlive them
        yield cluster


def finish(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def ranks_in(folder: Path) -> dict[int, tuple[str, str]]:
    """The processes that train in a run's folder, each with its rank and the name of its node."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended
            if f"redi_lab.verbs.train.rank_worker\0{folder / 'ranks'}\0" in (process / "cmdline").read_text():
                words = (process / "environ").read_text().split("\0")
                environment = {name: value for name, _, value in (word.partition("=") for word in words)}
                found[int(process.name)] = (environment["RANK"], environment["SLURMD_NODENAME"])
    return found


@pytest.fixture
def chain(tiny: Callable[..., list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """A tiny training, in a folder and with a cache of its own; jobs run in, and write to, the test's folder."""
    monkeypatch.chdir(tmp_path)

    def overrides(name: str, *more: str) -> list[str]:
        places = [f"paths.output_dir={tmp_path / name}", f"paths.cache_dir={tmp_path / name}-cache"]
        return [*tiny("eval=none", "trainer.accelerator=cpu", "name=job"), *places, *more]

    return overrides


def test_two_nodes_train_what_two_devices_do_to_the_bit(
    cluster: Cluster, chain: Callable[..., list[str]], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Both stages of the chain, and what is logged."""
    number = cluster.submit(printed(capsys, *chain("nodes"), "nodes=2", "gpus=1"), tmp_path)
    wait_until(lambda: sorted(ranks_in(tmp_path / "nodes").values()) == [("0", NODES[0]), ("1", NODES[1])], 240)
    job = cluster.wait_for("COMPLETED", number)
    said = (tmp_path / f"job-{number}.out").read_text()
    assert (job["JobState"], job["ExitCode"], job["NodeList"]) == ("COMPLETED", "0:0", "127.0.0.[1-2]"), said
    assert said.count("Results:") == 1
    end(start("-m", "redi_lab", *chain("own", "trainer.devices=2")))
    assert (tmp_path / "nodes" / WEIGHTS).read_bytes() == (tmp_path / "own" / WEIGHTS).read_bytes()
    assert curves(tmp_path / "nodes") == curves(tmp_path / "own")


def test_what_slurm_interrupts_goes_back_into_the_queue_and_on_to_the_bit(
    cluster: Cluster, chain: Callable[..., list[str]], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The signal of the batch file, 120 s before the end; to be soon there, the job's limit is cut to 2 minutes."""
    longer = ["+experiment=demo_sft", "trainer.max_steps=-1", "trainer.max_epochs=10", "data.batch_size=8"]
    number = cluster.submit(printed(capsys, *chain("nodes", *longer), "nodes=2", "gpus=1"), tmp_path)
    said = tmp_path / f"job-{number}.out"
    wait_for_step(tmp_path / "nodes", 4)
    ranks = ranks_in(tmp_path / "nodes")
    for rank in ranks:
        os.kill(rank, signal.SIGSTOP)  # SLURM looks at the clock twice a minute
    cluster.answer("scontrol", "update", f"JobId={number}", "TimeLimit=2")
    wait_until(lambda: "CANCELLED AT" in said.read_text(), 90)
    for rank in ranks:
        os.kill(rank, signal.SIGCONT)
    job = cluster.wait_for("PENDING", number)
    assert (job["JobState"], job["Restarts"]) == ("PENDING", "1"), said.read_text()
    assert said.read_text().count("Exited with exit code 75") == 2
    cluster.answer("scontrol", "update", f"JobId={number}", "TimeLimit=60")
    job = cluster.wait_for("COMPLETED", number)
    assert (job["JobState"], job["Restarts"], job["ExitCode"]) == ("COMPLETED", "1", "0:0"), said.read_text()
    assert said.read_text().count("60 steps in") == 1  # the rest were fewer
    end(start("-m", "redi_lab", *chain("through", *longer, "trainer.devices=2")))
    assert (tmp_path / "nodes" / WEIGHTS).read_bytes() == (tmp_path / "through" / WEIGHTS).read_bytes()
    assert curves(tmp_path / "nodes") == curves(tmp_path / "through")
