"""Filter in parts: jobs that look at some of the pictures each, in any order and place, and what they found put in one.

Parts share the pictures that are drawn first; those that replace what falls out are known once all are judged, and the
stage looks at them itself. The results are put into the work folder of the filter stage, which then only judges.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from prunella.compute.resume import open_run_dir
from prunella.compute.slices import Slice, SliceKind, merge_slices, open_slice, validate_slice
from prunella.data.filter import check_broken_fraction, sample_order
from prunella.data.image_checks import (
    CheckTask,
    ImageScorer,
    check_images,
    make_checks_identity,
    make_image_checker,
    split_into_tasks,
)
from prunella.data.images import RejectedImage
from prunella.data.prefetch import count_threads
from prunella.data.rejections import RejectionStats
from prunella.data.scan_rows import list_scan_tasks, scan_source
from prunella.data.sources import describe_source, open_source
from prunella.data.task_files import RESULT_GLOB, has_result, link_result
from prunella.errors import UserError
from prunella.params import Filter

SLICE_KIND = SliceKind("filter", "a filter", "tasks", "data or aesthetic model")


def plan_first_round(params: Filter, seed: int, source: dict, work: Path) -> list[CheckTask]:
    """The first round's tasks; rows that are scanned for them are kept in `work`.

    Raises UserError where the rows say already that the filter would stop.
    """
    stats = RejectionStats()
    rows, num_rows = scan_source(source, params, stats, work)
    check_broken_fraction(stats.counts["broken"], num_rows, params, stats, "rows")
    first_rows = np.sort(sample_order(rows, params, seed)[: params.samples])
    return split_into_tasks(0, rows["key"].take(pa.array(first_rows)).to_pylist())


def describe_sliceable_source(params: Filter, seed: int) -> dict:
    """The source. Raises UserError where nothing of it is looked at."""
    source = describe_source(params, seed)
    if open_source(source).rendered:
        raise UserError(
            f"filter.source {params.source}: pictures are rendered and not looked at, so there are no parts"
        )
    return source


class FilterSliceStats(NamedTuple):
    """Contents of a part: so many tasks of so many pictures, of which so many cannot be used."""

    tasks: int
    images: int
    rejected: int


def filter_slice(
    params: Filter, seed: int, out: Path, task_slice: Slice, workers: int = 0, score: ImageScorer | None = None
) -> FilterSliceStats:
    """Look at the part `task_slice` of the pictures drawn first; what is whole in the folder `out` is not done again.

    Raises UserError where `out` holds another part, or one of other parameters, data, aesthetic model or code.
    """
    source = describe_sliceable_source(params, seed)
    open_slice(out, task_slice, make_checks_identity(params, seed, source, with_mtime=False), SLICE_KIND)
    slice_tasks = task_slice.select(plan_first_round(params, seed, source, out))
    results = check_images(
        slice_tasks, make_image_checker(open_source(source), params, score), count_threads(workers), out
    )
    num_images = sum(len(task.keys) for task in slice_tasks)
    with tqdm(results, desc="filter: pictures", unit="picture", total=num_images, mininterval=1.0) as bar:
        num_rejected = sum(isinstance(result, RejectedImage) for result in bar)
    return FilterSliceStats(len(slice_tasks), num_images, num_rejected)


def merge_filter_slices(params: Filter, seed: int, slice_dirs: list[Path]) -> int:
    """Give the filter stage what all `slice_dirs` found; how many pictures it is of.

    Raises UserError where a task is missing or damaged, naming the parts that are to be made, and where a part is of
    other parameters, data, aesthetic model or code; no picture is given then.
    """
    source = describe_sliceable_source(params, seed)
    expected = make_checks_identity(params, seed, source, with_mtime=False)
    counts = {validate_slice(slice_dir, expected, SLICE_KIND).total for slice_dir in slice_dirs}
    with open_run_dir("filter", make_checks_identity(params, seed, source), started_glob=RESULT_GLOB) as work:
        for scan_task in list_scan_tasks(open_source(source)):  # every part has scanned them
            if not has_result(work, scan_task) and (
                origin := next((slice_dir for slice_dir in slice_dirs if has_result(slice_dir, scan_task)), None)
            ):
                link_result(origin, work, scan_task)
        all_tasks = plan_first_round(params, seed, source, work)
        merge_slices(all_tasks, work, slice_dirs, counts, SLICE_KIND, is_complete=has_result, link_result=link_result)
    return sum(len(task.keys) for task in all_tasks)
