"""Several processes in place of one, each with its share of the batch: torch's elastic launcher around a stage."""

import os
import sys

from prunella.params import Runtime


def is_launched() -> bool:
    """Whether this process is one of several already, started here, by `accelerate launch` or by `torchrun`."""
    return "LOCAL_RANK" in os.environ


def rank() -> int:
    """The rank of this process; the first, 0, writes and logs."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """How many processes there are."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def launch(runtime: Runtime) -> None:
    """Become the launcher of `runtime.processes` processes that run this very command. Does not return."""
    num_threads = runtime.threads or max(1, (os.cpu_count() or 1) // runtime.processes)
    os.environ.setdefault("OMP_NUM_THREADS", str(num_threads))
    # After SIGTERM a step is finished and its state written, which may take minutes.
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "600")
    launcher_args = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={runtime.processes}"]
    os.execv(sys.executable, [sys.executable, *launcher_args, *sys.argv])
