"""A stage's process: ended with the one that started it, and known later by what it made."""

import ctypes
import os
import signal
import socket
import sys
from pathlib import Path

import psutil

PR_SET_PDEATHSIG = 1  # prctl(2)


def end_with_parent() -> None:
    """Get SIGTERM when `dvc` or torch's launcher, which started this process, ends, even by kill -9 (Linux only).

    A stage started by hand may outlive its shell.
    """
    if sys.platform != "linux" or not ({"DVC_STAGE", "LOCAL_RANK"} & os.environ.keys()):
        return
    parent = os.getppid()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        signal.raise_signal(signal.SIGTERM)


def process_tags() -> dict[str, str]:
    """This process: its machine, the machine's start and process namespace, and its number and start."""
    return {"host": _host(), "boot": _boot(), "process": f"{os.getpid()} {_began(os.getpid())}"}


def is_gone(tags: dict[str, str]) -> bool:
    """Whether the process of these tags has ended; False where that cannot be told from here."""
    if tags.get("host") != _host() or len(known := tags.get("process", "").split()) != 2:
        return False
    boot, namespace = tags.get("boot", " ").split(" ")
    here, ours = _boot().split(" ")
    if boot != here:
        return True
    return namespace == ours and _began(int(known[0])) != known[1]


def _host() -> str:
    return f"{socket.gethostname()} {_text('/etc/machine-id')}".strip()


def _boot() -> str:
    """The kernel's name for its own start, and this process's namespace of process numbers (a container's)."""
    try:
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:
        namespace = ""
    return f"{_text('/proc/sys/kernel/random/boot_id')} {namespace}"


def _began(pid: int) -> str:
    """When a process began, in the machine's own count; "none" when there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[19]
    except OSError:
        pass
    try:
        return str(round(psutil.Process(pid).create_time()))
    except psutil.Error:
        return "none"


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError:
        return ""
