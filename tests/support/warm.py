"""An interpreter that has its libraries loaded: stages under DVC begin in milliseconds in place of six seconds.

A server imports what every stage does, but nothing of Prunella, and forks for each command that is sent to it by a
program that is started in place of Python ($PRUNELLA_PYTHON). So each stage still is a process with a folder, an
environment and code of its own. tests/test_graph.py runs the graph as users do.
"""

import atexit
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LIBRARIES = (
    "torch", "diffusers", "diffusers.models.unets.unet_2d_condition", "transformers", "peft", "accelerate", "mlflow",
)  # fmt: skip
STREAMS = 3  # input, output, errors

CLIENT = """#!{python} -SE
import json, os, signal, socket, sys
server = socket.socket(socket.AF_UNIX)
server.connect({address!r})
asked = json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
socket.send_fds(server, [len(asked).to_bytes(4)], [0, 1, 2])
server.sendall(asked)
answers = server.makefile("rb")
child = int(answers.readline())
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(number, lambda number, frame: os.kill(child, number))
sys.exit(int(answers.readline() or 1))
"""


@contextmanager
def interpreter() -> Iterator[dict[str, str]]:
    """The environment in which stages are started by a server that lives as long as this."""
    with tempfile.TemporaryDirectory() as folder:
        address, program = Path(folder, "socket"), Path(folder, "python-warm")
        program.write_text(CLIENT.format(python=sys.executable, address=str(address)))
        program.chmod(0o755)
        with subprocess.Popen([sys.executable, __file__, str(address)], stdout=subprocess.PIPE) as server:
            try:
                assert server.stdout is not None and server.stdout.readline() == b"ready\n"
                yield {"PRUNELLA_PYTHON": str(program)}
            finally:
                server.kill()


def serve(address: str) -> None:
    """Fork for each command, until ended."""
    for library in LIBRARIES:
        __import__(library)
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(address)
    listening.listen()
    print("ready", flush=True)
    while True:
        client, _ = listening.accept()
        size, streams, _, _ = socket.recv_fds(client, 4, STREAMS)
        words, folder, environment = json.loads(_all_of(client, int.from_bytes(size)))
        if child := os.fork():
            client.sendall(b"%d\n" % child)
            for stream in streams:
                os.close(stream)
            threading.Thread(target=_wait, args=(child, client), daemon=True).start()
            continue
        listening.close()
        client.close()
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        return _become(words, folder, environment)


def _all_of(client: socket.socket, size: int) -> bytes:
    held = b""
    while len(held) < size:
        held += client.recv(size - len(held)) or sys.exit("a client that ended")
    return held


def _wait(child: int, client: socket.socket) -> None:
    """Tell the client how the child has ended, in a shell's numbers."""
    with client:
        ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        client.sendall(b"%d\n" % (ended if ended >= 0 else 128 - ended))


def _become(words: list[str], folder: str, environment: dict[str, str]) -> None:
    """Run a script as `python SCRIPT ARGUMENT…` would."""
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    places = [place for place in environment.get("PYTHONPATH", "").split(os.pathsep) if place]
    sys.path[:1] = [str(Path(words[0]).resolve().parent), *places]
    sys.argv = words
    status: object = 0
    try:
        runpy.run_path(words[0], run_name="__main__")
    except SystemExit as ended:
        status = ended.code
    except BaseException:
        traceback.print_exc()
        status = 1
    if isinstance(status, str):
        print(status, file=sys.stderr)
    threading._shutdown()  # as an interpreter ends, but for taking the libraries apart, which takes two seconds
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status if isinstance(status, int) else int(status is not None))


if __name__ == "__main__":
    serve(sys.argv[1])
