"""Work shared by the machines of a Ray cluster: each worker holds a model, and gets a task when it is free.

Ray starts the workers, finds them room, carries tasks and says who is lost. Its actors alone are used: Ray Data is made
for rows that stream through memory, whereas a task here writes a shard and gives nothing back, and a lost worker's task
must go to another worker even where there is no room for a new one. The project's folder lies at the same path on
storage that all machines share, so a worker reads and writes what a stage on one machine would.
"""

import importlib
import os
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from tqdm import tqdm

from prunella.errors import UserError
from prunella.params import Runtime

LOOK = 1.0  # seconds until it is looked again whether the cluster has grown
LOSSES = 3  # workers in a row that a task may be lost with; what takes them along is then the task
LOADING = -1  # the number of what each worker does first
# Of the environment, for workers: where the Hub's cache is, what libraries say, how threads wait, where stores are.
# Keys of stores are each machine's own, since Ray shows what is passed on.
PASSED = (
    "HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "HF_HUB_DISABLE_PROGRESS_BARS", "TRANSFORMERS_VERBOSITY",
    "DIFFUSERS_VERBOSITY", "GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3",
    "AWS_PROFILE", "AWS_REGION", "AWS_DEFAULT_REGION", "GOOGLE_APPLICATION_CREDENTIALS",
)  # fmt: skip
T = TypeVar("T")


class Worker:
    """A process of the cluster, in the folder of the one that started it."""

    def __init__(self, begin: Callable[[], Callable[[Any], None]], folder: str, threads: int):
        os.chdir(folder)
        torch.set_num_threads(threads)  # as where it is done on one machine, to the last bit
        self.begin = begin

    def ready(self) -> None:
        """Load what the work needs; apart, since what is raised here reaches the caller as it is."""
        self.work = self.begin()

    def do(self, task: Any) -> None:
        self.work(task)


class Workers:
    """The workers of a cluster: as many as it has room for, whoever is lost replaced once there is room again."""

    def __init__(self, ray: Any, begin: Callable[[], Callable[[Any], None]], *, gpu: bool, threads: int):
        self.ray, self.gpu, self.threads = ray, gpu, threads
        self.alive: list[Any] = []
        kind: Any = ray.remote(Worker).options(num_cpus=0 if gpu else self.threads, num_gpus=int(gpu))
        if not self.room():
            needed = "a GPU (runtime.device)" if gpu else f"{self.threads} processors (runtime.threads)"
            raise UserError(f"runtime.engine: ray, but no machine of the cluster has {needed}")
        self.kind, self.given = kind, (begin, os.getcwd(), self.threads)

    def room(self) -> int:
        """How many fit in the machines that are there."""
        there = [node["Resources"] for node in self.ray.nodes() if node["Alive"]]
        return sum(int(each.get("GPU", 0)) if self.gpu else int(each.get("CPU", 0)) // self.threads for each in there)

    def grown(self, wanted: int) -> Iterator[Any]:
        """New workers, up to `wanted` in all; each is busy until its model is loaded."""
        for _ in range(min(wanted, self.room()) - len(self.alive)):
            self.alive.append(worker := self.kind.remote(*self.given))
            yield worker

    def drop(self, worker: Any) -> None:
        self.alive.remove(worker)
        self.ray.kill(worker)


def on_ray(
    begin: Callable[[], Callable[[T], None]],
    tasks: Iterable[T],
    *,
    gpu: bool | None,
    named: Callable[[T], str],
    threads: int | None = None,
) -> Iterator[T]:
    """Have the cluster at $RAY_ADDRESS do the tasks, in any order; yields each when it is done.

    `begin` makes what does a task, in each worker once. A worker has one task at a time, on a GPU of its own (None:
    where the cluster has GPUs), else on a processor for each of its `threads` (None: as many as torch has here). Raises
    UserError where there is no cluster, and for what a task raises as such.
    """
    with connected() as ray:
        gpu = bool(ray.cluster_resources().get("GPU")) if gpu is None else gpu
        workers = Workers(ray, begin, gpu=gpu, threads=threads or torch.get_num_threads())
        waiting, losses = deque(enumerate(tasks)), Counter[int]()
        busy: dict[Any, tuple[Any, tuple[int, T] | None]] = {}  # what a worker will answer → it, and its task
        idle: deque[Any] = deque()  # a lost worker's task may still come back to these
        while waiting or any(task for _, task in busy.values()):
            for worker in workers.grown(len(waiting) + len(busy)):
                busy[worker.ready.remote()] = worker, None
            while waiting and idle:
                worker, task = idle.popleft(), waiting.popleft()
                busy[worker.do.remote(task[1])] = worker, task
            if not busy:  # every machine is lost
                time.sleep(LOOK)
                continue
            done, _ = ray.wait(list(busy), timeout=LOOK)
            for reference in done:
                worker, answered = busy.pop(reference)
                number, name = (answered[0], named(answered[1])) if answered else (LOADING, "what a worker loads")
                if fault := _lost(ray, reference):
                    workers.drop(worker)
                    if answered:
                        waiting.appendleft(answered)
                    losses[number] += 1
                    _said(name, fault, losses[number])
                    continue
                idle.append(worker)
                losses[number] = 0
                if answered:
                    yield answered[1]


def made_on_ray(
    begin: Callable[[], Callable[[T], None]],
    waiting: list[T],
    runtime: Runtime,
    work: Path,
    *,
    named: Callable[[T], str],
    there: Callable[[T], bool],
    title: str,
    threads: int | None = None,
) -> Generator[T, None, None]:
    """Have the cluster make what waits, in `work`; yields each, in any order, when it is made.

    Raises UserError as `on_ray` does, and where one that is made is not `there`, since `work` is not shared.
    """
    gpu = {"auto": None, "cpu": False}.get(runtime.device, True)
    for task in on_ray(begin, waiting, gpu=gpu, named=named, threads=threads) if waiting else ():
        if not there(task):
            raise UserError(
                f"{title}: a worker has made {named(task)}, but it is not in {work.resolve()} here; with "
                "runtime.engine ray that folder must lie on storage that all machines of the cluster share"
            )
        yield task


def shards_on_ray(
    begin: Callable[[], Callable[[T], None]],
    waiting: list[T],
    runtime: Runtime,
    work: Path,
    *,
    named: Callable[[T], str],
    count: Callable[[T], int],
    there: Callable[[T], bool],
    title: str,
    unit: str,
) -> None:
    """Have the cluster make the shards that wait, as `made_on_ray`; a bar counts what each holds."""
    with tqdm(total=sum(map(count, waiting)), desc=title, unit=unit, mininterval=1.0) as bar:
        for task in made_on_ray(begin, waiting, runtime, work, named=named, there=there, title=title):
            bar.update(count(task))


def _lost(ray: Any, reference: Any) -> str | None:
    """What became of the worker that should have answered; None where it has. Raises what it raised."""
    errors = ray.exceptions
    try:
        ray.get(reference)
    except (errors.RayActorError, errors.WorkerCrashedError, errors.NodeDiedError, errors.ObjectLostError) as error:
        return type(error).__name__
    except errors.RayTaskError as error:
        raise error.cause if isinstance(error.cause, UserError) else error from None
    return None


def _said(name: str, fault: str, count: int) -> None:
    """Say that a task is done again. Raises UserError where it has been lost too often."""
    if count == LOSSES:
        raise UserError(
            f"{name}: {count} workers were lost while they made it (the last: {fault}); a smaller batch_size, or more "
            "memory a worker, if they ran out of it: `ray logs` has what they said"
        )
    print(f"{name}: its worker was lost ({fault}); another makes it", file=sys.stderr, flush=True)


@contextmanager
def connected() -> Iterator[Any]:
    """The module `ray`, connected to the cluster inside; its workers are gone afterwards. Raises UserError."""
    address = os.environ.get("RAY_ADDRESS")
    if not address:
        raise UserError(
            "runtime.engine: ray, but RAY_ADDRESS is not set; `ray start --head` prints the address of the cluster it "
            "starts (HOST:6379), and runtime.engine: local uses this machine alone"
        )
    try:
        ray = importlib.import_module("ray")
    except ImportError:
        raise UserError("runtime.engine: ray needs Ray: pip install 'prunella[ray]'") from None
    passed = {name: os.environ[name] for name in PASSED if name in os.environ}
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere
    path = [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]  # this code, not another
    try:
        ray.init(
            address, runtime_env={"env_vars": passed | {"PYTHONPATH": os.pathsep.join(path)}}, logging_level="warning"
        )
    except ConnectionError as error:
        raise UserError(f"no Ray cluster answers at RAY_ADDRESS {address}: {str(error).splitlines()[0]}") from None
    try:
        yield ray
    finally:
        ray.shutdown()
