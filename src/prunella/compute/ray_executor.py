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

POLL_SECONDS = 1.0  # seconds until it is looked again whether the cluster has grown
MAX_LOST_WORKERS = 3  # workers in a row that a task may be lost with; what takes them along is then the task
LOADING_TASK = -1  # the number of what each worker does first
# Of the environment, for workers: where the Hub's cache is, what libraries say, how threads wait, where stores are.
# Keys of stores are each machine's own, since Ray shows what is passed on.
FORWARDED_ENV = (
    "HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "HF_HUB_DISABLE_PROGRESS_BARS", "TRANSFORMERS_VERBOSITY",
    "DIFFUSERS_VERBOSITY", "GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3",
    "AWS_PROFILE", "AWS_REGION", "AWS_DEFAULT_REGION", "GOOGLE_APPLICATION_CREDENTIALS",
)  # fmt: skip
T = TypeVar("T")


class RayWorker:
    """A process of the cluster, in the folder of the one that started it."""

    def __init__(self, make_work_fn: Callable[[], Callable[[Any], None]], working_dir: str, threads: int):
        os.chdir(working_dir)
        torch.set_num_threads(threads)  # as where it is done on one machine, to the last bit
        self.make_work_fn = make_work_fn

    def ready(self) -> None:
        """Load what the work needs; apart, since what is raised here reaches the caller as it is."""
        self.work_fn = self.make_work_fn()

    def do(self, task: Any) -> None:
        self.work_fn(task)


class RayWorkerPool:
    """The workers of a cluster: as many as it has room for, whoever is lost replaced once there is room again."""

    def __init__(self, ray: Any, make_work_fn: Callable[[], Callable[[Any], None]], *, gpu: bool, threads: int):
        self.ray, self.gpu, self.threads = ray, gpu, threads
        self.alive: list[Any] = []
        actor_class: Any = ray.remote(RayWorker).options(num_cpus=0 if gpu else self.threads, num_gpus=int(gpu))
        if not self.count_capacity():
            requirement = "a GPU (runtime.device)" if gpu else f"{self.threads} processors (runtime.threads)"
            raise UserError(f"runtime.engine: ray, but no machine of the cluster has {requirement}")
        self.actor_class, self.actor_args = actor_class, (make_work_fn, os.getcwd(), self.threads)

    def count_capacity(self) -> int:
        """How many fit in the machines that are there."""
        resources = [node["Resources"] for node in self.ray.nodes() if node["Alive"]]
        return sum(
            int(each.get("GPU", 0)) if self.gpu else int(each.get("CPU", 0)) // self.threads for each in resources
        )

    def scale_up(self, target: int) -> Iterator[Any]:
        """New workers, up to `target` in all; each is busy until its model is loaded."""
        for _ in range(min(target, self.count_capacity()) - len(self.alive)):
            self.alive.append(worker := self.actor_class.remote(*self.actor_args))
            yield worker

    def drop(self, worker: Any) -> None:
        self.alive.remove(worker)
        self.ray.kill(worker)


def iter_ray_results(
    make_work_fn: Callable[[], Callable[[T], None]],
    tasks: Iterable[T],
    *,
    gpu: bool | None,
    format_task: Callable[[T], str],
    threads: int | None = None,
) -> Iterator[T]:
    """Have the cluster at $RAY_ADDRESS do the tasks, in any order; yields each when it is done.

    `make_work_fn` makes what does a task, in each worker once. A worker has one task at a time, on a GPU of its own
    (None: where the cluster has GPUs), else on a processor for each of its `threads` (None: as many as torch has
    here). Raises UserError where there is no cluster, and for what a task raises as such.
    """
    with ray_session() as ray:
        gpu = bool(ray.cluster_resources().get("GPU")) if gpu is None else gpu
        workers = RayWorkerPool(ray, make_work_fn, gpu=gpu, threads=threads or torch.get_num_threads())
        pending, lost_counts = deque(enumerate(tasks)), Counter[int]()
        busy: dict[Any, tuple[Any, tuple[int, T] | None]] = {}  # what a worker will answer → it, and its task
        idle: deque[Any] = deque()  # a lost worker's task may still come back to these
        while pending or any(task for _, task in busy.values()):
            for worker in workers.scale_up(len(pending) + len(busy)):
                busy[worker.ready.remote()] = worker, None
            while pending and idle:
                worker, task = idle.popleft(), pending.popleft()
                busy[worker.do.remote(task[1])] = worker, task
            if not busy:  # every machine is lost
                time.sleep(POLL_SECONDS)
                continue
            done, _ = ray.wait(list(busy), timeout=POLL_SECONDS)
            for reference in done:
                worker, finished = busy.pop(reference)
                task_number, task_name = (
                    (finished[0], format_task(finished[1])) if finished else (LOADING_TASK, "what a worker loads")
                )
                if failure := _find_actor_failure(ray, reference):
                    workers.drop(worker)
                    if finished:
                        pending.appendleft(finished)
                    lost_counts[task_number] += 1
                    _report_lost_worker(task_name, failure, lost_counts[task_number])
                    continue
                idle.append(worker)
                lost_counts[task_number] = 0
                if finished:
                    yield finished[1]


def run_on_ray(
    make_work_fn: Callable[[], Callable[[T], None]],
    pending: list[T],
    runtime: Runtime,
    work_dir: Path,
    *,
    format_task: Callable[[T], str],
    is_written: Callable[[T], bool],
    description: str,
    threads: int | None = None,
) -> Generator[T, None, None]:
    """Have the cluster make what waits, in `work_dir`; yields each, in any order, when it is made.

    Raises UserError as `iter_ray_results` does, and where one that is made is not `is_written`, since `work_dir` is
    not shared.
    """
    gpu = {"auto": None, "cpu": False}.get(runtime.device, True)
    for task in (
        iter_ray_results(make_work_fn, pending, gpu=gpu, format_task=format_task, threads=threads) if pending else ()
    ):
        if not is_written(task):
            raise UserError(
                f"{description}: a worker has made {format_task(task)}, but it is not in {work_dir.resolve()} here; "
                "with "
                "runtime.engine ray that folder must lie on storage that all machines of the cluster share"
            )
        yield task


def run_shards_on_ray(
    make_work_fn: Callable[[], Callable[[T], None]],
    pending: list[T],
    runtime: Runtime,
    work_dir: Path,
    *,
    format_task: Callable[[T], str],
    count_items: Callable[[T], int],
    is_written: Callable[[T], bool],
    description: str,
    unit: str,
) -> None:
    """Have the cluster make the shards that wait, as `run_on_ray`; a bar counts what each holds."""
    with tqdm(total=sum(map(count_items, pending)), desc=description, unit=unit, mininterval=1.0) as bar:
        for task in run_on_ray(
            make_work_fn,
            pending,
            runtime,
            work_dir,
            format_task=format_task,
            is_written=is_written,
            description=description,
        ):
            bar.update(count_items(task))


def _find_actor_failure(ray: Any, reference: Any) -> str | None:
    """The fate of the worker that should have answered; None where it has. Raises what it raised."""
    errors = ray.exceptions
    try:
        ray.get(reference)
    except (errors.RayActorError, errors.WorkerCrashedError, errors.NodeDiedError, errors.ObjectLostError) as error:
        return type(error).__name__
    except errors.RayTaskError as error:
        raise error.cause if isinstance(error.cause, UserError) else error from None
    return None


def _report_lost_worker(name: str, failure: str, count: int) -> None:
    """Say that a task is done again. Raises UserError where it has been lost too often."""
    if count == MAX_LOST_WORKERS:
        raise UserError(
            f"{name}: {count} workers were lost while they made it (the last: {failure}); a smaller batch_size, or "
            "more "
            "memory a worker, if they ran out of it: `ray logs` has what they said"
        )
    print(f"{name}: its worker was lost ({failure}); another makes it", file=sys.stderr, flush=True)


@contextmanager
def ray_session() -> Iterator[Any]:
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
    forwarded = {name: os.environ[name] for name in FORWARDED_ENV if name in os.environ}
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere
    python_path = [
        str(Path(__file__).parents[2]),
        *filter(None, [os.environ.get("PYTHONPATH")]),
    ]  # this code, not another
    try:
        ray.init(
            address,
            runtime_env={"env_vars": forwarded | {"PYTHONPATH": os.pathsep.join(python_path)}},
            logging_level="warning",
        )
    except ConnectionError as error:
        raise UserError(f"no Ray cluster answers at RAY_ADDRESS {address}: {str(error).splitlines()[0]}") from None
    try:
        yield ray
    finally:
        ray.shutdown()
