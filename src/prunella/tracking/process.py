"""A stage's process: ended with the one that started it, and known later by what it made."""

import os
import signal
import socket
import threading
import time
from pathlib import Path

import psutil

POLL_SECONDS = 1.0  # between two looks at whether those that started this process are there


def exit_with_parent() -> None:
    """Get SIGTERM when `dvc` or torch's launcher, which started this stage, has ended, even by kill -9.

    A thread looks, since between them and the stage there may be shells that live on, to which the kernel's own signal
    (prctl, PR_SET_PDEATHSIG) would be tied. A stage started by hand may outlive its shell.
    """
    if ancestors := _find_ancestors():
        threading.Thread(target=_exit_after, args=(ancestors,), daemon=True).start()


def _find_ancestors() -> list[psutil.Process]:
    """The processes above this one up to `dvc`, and in one of several processes through the launcher to it."""
    remaining = len({"DVC_STAGE", "LOCAL_RANK"} & os.environ.keys())
    ancestors = []
    for process in psutil.Process().parents() if remaining else ():
        ancestors.append(process)
        remaining -= _runs_python(process)
        if not remaining:
            break
    return ancestors


def _runs_python(process: psutil.Process) -> bool:
    try:
        command = process.cmdline() or [""]
    except psutil.Error:
        return False
    return Path(command[0]).name.lower().startswith(("python", "dvc"))


def _exit_after(processes: list[psutil.Process]) -> None:
    while all(_is_alive(process) for process in processes):
        time.sleep(POLL_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def process_tags() -> dict[str, str]:
    """This process: its machine, the machine's start and process namespace, and its number and start."""
    return {"host": _host_id(), "boot": _boot_id(), "process": f"{os.getpid()} {_process_start_time(os.getpid())}"}


def is_dead(tags: dict[str, str]) -> bool:
    """Whether the process of these tags has ended; False where that cannot be told from here."""
    if tags.get("host") != _host_id() or len(pid_and_start := tags.get("process", "").split()) != 2:
        return False
    boot, namespace = tags.get("boot", " ").split(" ")
    this_boot, this_namespace = _boot_id().split(" ")
    if boot != this_boot:
        return True
    return namespace == this_namespace and _process_start_time(int(pid_and_start[0])) != pid_and_start[1]


def _host_id() -> str:
    return f"{socket.gethostname()} {_read_text_or_empty('/etc/machine-id')}".strip()


def _boot_id() -> str:
    """The kernel's name for its own start, and this process's namespace of process numbers (a container's)."""
    try:
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:
        namespace = ""
    return f"{_read_text_or_empty('/proc/sys/kernel/random/boot_id')} {namespace}"


def _process_start_time(pid: int) -> str:
    """When a process began, in the machine's own count; "none" when there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[19]
    except OSError:
        pass
    try:
        return str(round(psutil.Process(pid).create_time()))
    except psutil.Error:
        return "none"


def _read_text_or_empty(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError:
        return ""
