"""Looking at pictures, the costly part of the filter, in tasks that each leave a file of what was found.

The result for a picture, its `Facts` or why it cannot be used, is a function of its bytes and the parameters. Therefore
a task is the same whoever does it: a run that was killed goes on after those that are done, machines of a cluster share
them, and jobs of their own make some of them each. The choice of pictures is judged afterwards, in one order.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import NamedTuple

from PIL import Image
from tqdm import tqdm

from prunella.compute.resume import Identity, compute_identity
from prunella.data.criteria import ImageFacts, find_failed_criterion
from prunella.data.images import RejectedImage, measure_contrast, open_rgb, perceptual_hash, raise_system_errors
from prunella.data.prefetch import count_threads, prefetch
from prunella.data.sources import open_source
from prunella.data.sources.base import Source
from prunella.data.task_files import list_finished_tasks, read_result, run_tasks_on_ray, write_result
from prunella.params import Filter, Runtime
from prunella.storage.files import json_digest
from prunella.storage.remote import PathOrRemote, RemotePath, parse_location

CODE_DEPS = ("data", "models/weights.py")  # decide what is found
IMAGES_PER_TASK = 1000  # pictures; a few seconds of a processor
ImageScorer = Callable[[list], list[float]]  # pictures → aesthetic scores
CheckResult = ImageFacts | RejectedImage
ImageChecker = Callable[[str], CheckResult]  # of a key


class CheckTask(NamedTuple):
    """Pictures to be looked at, of one round of the filter's."""

    round_number: int  # 0: the pairs drawn first; each further one replaces what fell out of the one before
    task_index: int
    keys: list[str]

    @property
    def name(self) -> str:
        return f"{self.round_number}-{self.task_index:05d}"

    @property
    def payload(self) -> str:
        return json.dumps(self.keys)


def split_into_tasks(round_number: int, keys: list[str]) -> list[CheckTask]:
    """The tasks of a round."""
    return [
        CheckTask(round_number, task_index, keys[start : start + IMAGES_PER_TASK])
        for task_index, start in enumerate(range(0, len(keys), IMAGES_PER_TASK))
    ]


def load_aesthetic_scorer(params: Filter, device: Callable[[], str]) -> ImageScorer | None:
    """The model that scores pictures where `filter.aesthetic` asks for a model."""
    models = _scorer_files(params)
    if not models:
        return None
    from prunella.data.aesthetic import AestheticScorer

    head, clip = models
    return AestheticScorer(head, clip, device())


def _scorer_files(params: Filter) -> list[Path]:
    """The head and the CLIP that score pictures, where `filter.aesthetic` asks for them."""
    config = params.aesthetic
    return [] if config.min is None or not config.model or not config.clip else [Path(config.model), Path(config.clip)]


def make_image_checker(source: Source, params: Filter, score: ImageScorer | None) -> ImageChecker:
    """From a key to the picture's facts, or to the rejection of one that cannot be used."""

    def check_image(key: str) -> CheckResult:
        try:
            with raise_system_errors(key):
                data = source.read_image_bytes(key)
                with open_rgb(data) as image:
                    return measure_image(data, image)
        except RejectedImage as rejection:
            return rejection

    def measure_image(data: bytes, image: Image.Image) -> ImageFacts:
        facts = ImageFacts(
            image.width,
            image.height,
            hashlib.sha256(data).hexdigest(),
            measure_contrast(image) if params.min_contrast else 0.0,
            perceptual_hash(image) if params.near_duplicates is not None else 0,
        )
        return (
            facts._replace(aesthetic=score([image])[0]) if score and not find_failed_criterion(facts, params) else facts
        )

    return check_image


# Who looks

RoundChecker = Callable[
    [int, list[str]], Iterator[CheckResult]
]  # number of a round, its keys → what is found of each, in order


def make_round_checker(
    params: Filter, source: dict, workers: int, score: ImageScorer | None, work: Path | None, cluster: Runtime | None
) -> RoundChecker:
    """The worker for the pictures of a round: threads, or with `cluster` the workers of the Ray cluster.

    Tasks that are whole in the folder `work` are not done again. Without it nothing is kept.
    """
    check_image = make_image_checker(open_source(source), params, score)

    def check_round(round_number: int, keys: list[str]) -> Iterator[CheckResult]:
        round_tasks = split_into_tasks(round_number, keys)
        use_ray = len(round_tasks) > 1 or bool(
            _scorer_files(params)
        )  # one alone is done here before workers have started
        if cluster and work and use_ray:
            return _check_on_ray(round_tasks, params, source, work, cluster)
        return check_images(round_tasks, check_image, workers, work)

    return check_round


def check_images(
    tasks: list[CheckTask], check_image: ImageChecker, workers: int, work: Path | None = None
) -> Iterator[CheckResult]:
    """The result for each picture, in order; a task's file is written to `work` once all of it was looked at."""
    finished = _report_finished_tasks(tasks, work)
    pending_keys = (key for task in tasks if task.name not in finished for key in task.keys)
    with closing(prefetch(check_image, pending_keys, workers, 8 * workers)) as results:
        for task in tasks:
            if work and task.name in finished:
                yield from read_check_results(work, task)
                continue
            task_results: list[CheckResult] = []
            for _ in task.keys:
                task_results.append(next(results))
                if work and len(task_results) == len(task.keys):
                    write_check_results(work, task, task_results)
                yield task_results[-1]


class CheckWorker:
    """Looks at a task's pictures in a process of a cluster."""

    def __init__(self, params: Filter, source: dict, work: Path, runtime: Runtime):
        from prunella.compute.device import resolve_device

        score = load_aesthetic_scorer(params, lambda: resolve_device(runtime))
        self.check_image, self.work = make_image_checker(open_source(source), params, score), work
        self.num_threads = count_threads(runtime.workers) if score else runtime.workers or 1  # it has one processor

    def __call__(self, task: CheckTask) -> None:
        for _ in check_images([task], self.check_image, self.num_threads, self.work):
            pass


def _check_on_ray(
    tasks: list[CheckTask], params: Filter, source: dict, work: Path, cluster: Runtime
) -> Iterator[CheckResult]:
    """As `check_images`."""
    make_worker, use_gpu = partial(CheckWorker, params, source, work, cluster), bool(_scorer_files(params))
    for task in run_tasks_on_ray(
        make_worker, tasks, _report_finished_tasks(tasks, work), cluster, work, label="pictures", use_gpu=use_gpu
    ):
        yield from read_check_results(work, task)


def _report_finished_tasks(tasks: list[CheckTask], work: Path | None) -> set[str]:
    """The tasks that are done in `work`; of the first round it is said how many pictures they are."""
    names = list_finished_tasks(tasks, work)
    if names and not tasks[0].round_number:
        num_done, total = (
            sum(len(task.keys) for task in tasks if task.name in names),
            sum(len(task.keys) for task in tasks),
        )
        tqdm.write(f"filter: {num_done:,} of {total:,} pictures were looked at before ({work}); it goes on from there")
    return names


def write_check_results(work: Path, task: CheckTask, results: list[CheckResult]) -> None:
    """Keep what was found of a task's pictures, a line each."""
    write_result(work, task, "".join(json.dumps(_result_fields(result)) + "\n" for result in results).encode())


def read_check_results(work: Path, task: CheckTask) -> Iterator[CheckResult]:
    """The kept results for each picture of a task."""
    for line in read_result(work, task).splitlines():
        fields = json.loads(line)
        yield RejectedImage(*fields) if len(fields) == 2 else ImageFacts(*fields)


def _result_fields(result: CheckResult) -> list:
    return [result.cause, result.criterion] if isinstance(result, RejectedImage) else list(result)


# What decides them


def make_checks_identity(params: Filter, seed: int, source: dict, *, with_mtime: bool = True) -> Identity:
    """The identity of the tasks and their results; `with_mtime` counts data that were changed later as other data.

    How many pictures may be broken is left out: it stops the filter, and whoever raises it goes on from there.
    """
    base = compute_identity(
        params.model_dump(exclude={"max_corrupt_fraction"}) | {"seed": seed}, _scorer_files(params), CODE_DEPS
    )
    data = parse_location(source["id"] if "id" in source else source["path"])
    return base._replace(inputs=[*base.inputs, source, dataset_fingerprint(data, with_mtime)])


def dataset_fingerprint(root: PathOrRemote, with_mtime: bool) -> str:
    """A digest of the names and sizes of the files at `root`, and with `with_mtime` of when they were last changed.

    On a store it is of their names and ETags.
    """
    if isinstance(root, RemotePath):
        return json_digest(root.etags())
    digest = hashlib.sha256()
    for folder, folders, names in os.walk(root) if root.is_dir() else [(str(root.parent), [], [root.name])]:
        folders.sort()
        for path in (os.path.join(folder, name) for name in sorted(names)):
            try:
                status = os.stat(path)
            except OSError:  # a link to nowhere, which is rejected as broken, or what is no file of this machine
                continue
            mtime = status.st_mtime_ns if with_mtime else 0
            digest.update(os.fsencode(f"{os.path.relpath(path, root)}\0{status.st_size}\0{mtime}\n"))
    return digest.hexdigest()[:16]
