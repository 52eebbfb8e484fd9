"""Which process made something, so that it can be told later whether that process is gone."""

import os
import socket
from pathlib import Path

import psutil


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
