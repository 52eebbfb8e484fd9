"""A real `mlflow server` that can be killed and started again, on SQLite or on a PostgreSQL cluster of its own."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

WAIT = 180.0  # seconds that a server may take to start on a busy machine
# MLflow without workers for LLM judges and without a proxy in front of this machine.
QUIET = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
MISSING = (
    "needs PostgreSQL's initdb and pg_ctl, looked for on PATH and in /usr/lib/postgresql/*/bin: "
    "`apt-get install -y postgresql` (Debian's package)"
)


def free_port() -> int:
    with socket.socket() as it:
        it.bind(("127.0.0.1", 0))
        return it.getsockname()[1]


def answering(address: str, process: subprocess.Popen, log: Path) -> None:
    """Wait until a server answers there. Fails with the end of its log where its process ends, or it takes too long."""
    ask = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    until = time.monotonic() + WAIT
    while time.monotonic() < until and process.poll() is None:
        try:
            ask.open(address, timeout=5).close()
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise AssertionError(f"no server answers at {address}: {log.read_text()[-3000:]}")


class Server:
    """`mlflow server` on a database, with its artifacts in `folder`."""

    def __init__(self, database: str, folder: Path):
        self.database, self.folder, self.port = database, folder, free_port()
        self.process: subprocess.Popen | None = None

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        words = ["--backend-store-uri", self.database, "--artifacts-destination", str(self.folder / "artifacts")]
        words += ["--host", "127.0.0.1", "--port", str(self.port), "--workers", "1"]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")} | QUIET
        with (self.folder / "server.log").open("a") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "mlflow", "server", *words],
                cwd=self.folder,
                env=environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        answering(f"{self.uri}/health", self.process, self.folder / "server.log")

    def kill(self) -> None:
        """kill -9 of the server and of its workers, which form a session of their own."""
        if self.process is not None:
            with suppress(ProcessLookupError):  # it ended by itself
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


@contextmanager
def running(database: str, folder: Path) -> Iterator[Server]:
    server = Server(database, folder)
    try:
        server.start()
        yield server
    finally:
        server.kill()


def postgres_programs() -> Path:
    """The folder of initdb and pg_ctl. Skips, with what is needed, where there is none."""
    there = [Path(found).parent] if (found := shutil.which("initdb")) else []
    there += sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parent.name))
    if not there:
        pytest.skip(MISSING)
    return there[-1]


@contextmanager
def postgresql() -> Iterator[str]:
    """The address of a database in a cluster of its own, which runs as postgres or nobody where we are root."""
    programs = postgres_programs()
    names = {entry.pw_name for entry in pwd.getpwall()}
    user = None if os.getuid() else "postgres" if "postgres" in names else "nobody"
    home = Path(tempfile.mkdtemp(prefix="prunella-pg-", dir="/tmp"))  # pytest's own folder is closed to other users
    if user:
        shutil.chown(home, user)
    port = free_port()

    def call(program: str, *words: str) -> None:
        done = subprocess.run(
            [str(programs / program), *words],
            cwd=home,
            user=user,
            extra_groups=[] if user else None,
            env={"PATH": os.environ["PATH"], "LC_ALL": "C", "HOME": str(home)},
            stdout=subprocess.DEVNULL,  # pg_ctl's child would hold a pipe open
            stderr=subprocess.DEVNULL,
            check=False,
        )
        assert done.returncode == 0, f"{program} {words}: status {done.returncode}"

    data = str(home / "data")
    try:
        # psycopg 3 gives bytes of a cluster in SQL_ASCII, which initdb makes of the locale C.
        call("initdb", "--pgdata", data, "--username", "prunella", "--auth", "trust", "--no-sync", "--encoding", "UTF8")
        options = f"-p {port} -k {home} -c listen_addresses=127.0.0.1 -c fsync=off"
        call("pg_ctl", "--pgdata", data, "--wait", "--log", str(home / "log"), "--options", options, "start")
        try:
            call("createdb", "--host", "127.0.0.1", "--port", str(port), "--username", "prunella", "mlflow")
            yield f"postgresql://prunella@127.0.0.1:{port}/mlflow"
        finally:
            call("pg_ctl", "--pgdata", data, "--mode", "immediate", "stop")
    finally:
        shutil.rmtree(home, ignore_errors=True)
