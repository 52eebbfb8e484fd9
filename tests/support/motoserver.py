"""S3 on this machine: moto's server on the loopback interface, a process of its own whose log lists the requests."""

import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import fsspec
import pytest
from servers import answering, free_port

from prunella.storage import remote

LINE = re.compile(r'"(GET|HEAD|PUT|POST|DELETE) (\S*) HTTP')


class S3:
    """Its address, and what was asked of it since `forget`."""

    def __init__(self, port: int, log: Path):
        self.url, self.log, self.begin = f"http://127.0.0.1:{port}", log, 0
        self.environment = {"AWS_ENDPOINT_URL": self.url, "AWS_ACCESS_KEY_ID": "any", "AWS_SECRET_ACCESS_KEY": "any"}
        self.environment |= {"AWS_DEFAULT_REGION": "us-east-1", "NO_PROXY": "127.0.0.1"}

    def forget(self) -> None:
        self.begin = len(self.log.read_text())

    def asked(self) -> Counter[str]:
        """How many of GET, HEAD, PUT and LIST."""
        found = LINE.findall(self.log.read_text()[self.begin :])
        return Counter("LIST" if "list-type" in path else method for method, path in found)

    def put(self, folder: Path, name: str) -> str:
        """The address of a copy of `folder` in a bucket, both made."""
        store = fsspec.filesystem("s3")
        store.makedirs(name.split("/", maxsplit=1)[0], exist_ok=True)
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                store.pipe_file(f"{name}/{file.relative_to(folder).as_posix()}", file.read_bytes())
        return f"s3://{name}"


@contextmanager
def s3(monkeypatch, folder: Path) -> Iterator[S3]:
    """A server with nothing in it, which this process and those it starts take for S3."""
    pytest.importorskip("moto", reason="needs a server to test against: pip install 'moto[server]'")
    pytest.importorskip("s3fs", reason="needs what reaches S3: pip install 'prunella[s3]'")
    it = S3(free_port(), folder / "moto.log")
    for name, value in it.environment.items():
        monkeypatch.setenv(name, value)
    command = [sys.executable, "-m", "moto.server", "--host", "127.0.0.1", "--port", it.url.rpartition(":")[2]]
    with it.log.open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        answering(f"{it.url}/moto-api/", process, it.log)
        _forget_stores()
        yield it
    finally:
        process.kill()
        process.wait()
        _forget_stores()


def _forget_stores() -> None:
    """What is open knows the address that another test had."""
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    remote._open_filesystem.cache_clear()
