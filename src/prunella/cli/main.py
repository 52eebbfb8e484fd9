"""`prunella`: look at what a run made, at the students, at the parameters; start the MLflow UI on the right store."""

import argparse
import json
import os
import sys
from pathlib import Path

from prunella.errors import UserError

ORIGINAL = {"sd": "sd15", "sdxl": "sdxl"}  # of a family, where no teacher is named
TEACHER = "an original (sd15, sd21, sdxl) or a diffusers pipeline folder"


def main(arguments: list[str] | None = None) -> None:
    """The console script; a user's mistake is one line on stderr and status 1."""
    given = _parser().parse_args(arguments)
    try:
        given.run(given)
    except UserError as error:
        sys.exit(f"prunella: {error}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="prunella", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, run, about in (
        ("summary", _summary, "print the table of the last benchmark, and where its report is"),
        ("check", _check, "check params.yaml without running anything"),
        ("students", _students, "list the students that can be made, with what they cost"),
        ("plan", _plan, "say what a student keeps of its teacher"),
        ("draw", _draw, "draw what a student keeps of its teacher, as SVG"),
        ("bench", None, "time a training step with random weights (train), or what is done to the data (data)"),
        ("download", _download, "fetch the pictures of a table of URLs into a webdataset, by img2dataset"),
        ("ui", _ui, "start the MLflow UI on the store that the stages log to"),
    ):
        command = commands.add_parser(name, help=about, description=about)
        command.set_defaults(run=run)
    commands.choices["ui"].add_argument("--port", type=int, default=5000)
    commands.choices["check"].add_argument("params", nargs="?", type=Path, default=Path("params.yaml"))
    commands.choices["students"].add_argument("--teacher", help=TEACHER + " (default: all originals)")
    for name in ("plan", "draw"):
        commands.choices[name].add_argument("student", help="a name in the catalogue, or a plan's YAML file")
    commands.choices["plan"].add_argument("--teacher", help=TEACHER + " (default: the original of the plan's family)")
    commands.choices["draw"].add_argument("--out", type=Path, help="file to write (default: standard output)")
    kinds = commands.choices["bench"].add_subparsers(required=True, metavar="WHAT")
    _bench_train_arguments(kinds.add_parser("train", help="a training step with random weights, part by part"))
    _bench_data_arguments(kinds.add_parser("data", help="filter, encode and reading back, of the data in params.yaml"))
    _download_arguments(commands.choices["download"])
    return parser


def _bench_data_arguments(bench: argparse.ArgumentParser) -> None:
    bench.set_defaults(run=_bench_data)
    bench.add_argument("--params", type=Path, default=Path("params.yaml"))
    bench.add_argument("--device", default="auto")
    bench.add_argument("--rows", type=int, help="in place of the data: the criteria of a made-up table of so many rows")
    bench.add_argument("--json", type=Path, help="file to write the figures to")


def _download_arguments(fetch: argparse.ArgumentParser) -> None:
    fetch.add_argument("table", type=Path, help="a Parquet file, or a folder of them")
    fetch.add_argument("out", type=Path, help="folder of the webdataset; the same command continues one")
    fetch.add_argument("--params", type=Path, help="fetch only what passes the criteria of this file's filter section")
    fetch.add_argument("--url", default="URL", help="column (default: URL, as LAION's)")
    fetch.add_argument("--caption", default="TEXT", help="column (default: TEXT)")
    fetch.add_argument("--keep", nargs="*", default=[], metavar="COLUMN", help="scores to keep: aesthetic, punsafe, …")
    fetch.add_argument("--size", type=int, help="pixels of the shorter side, where it is longer (default: as they are)")
    fetch.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    fetch.add_argument("--img2dataset", type=Path, help="its program (default: on PATH, or beside this Python)")


def _bench_train_arguments(bench: argparse.ArgumentParser) -> None:
    gpu = "on a GPU"
    bench.set_defaults(run=_bench_train)
    bench.add_argument("--student", required=True, help="a name in the catalogue, or a plan's YAML file")
    bench.add_argument("--teacher-config", help=TEACHER + " (default: the original of the plan's family)")
    bench.add_argument("--resolution", type=int, help="pixels (default: the teacher's own)")
    bench.add_argument("--batch-size", type=int, default=4)
    bench.add_argument("--precision", choices=["fp32", "tf32", "bf16", "fp16"], help=f"default: bf16 {gpu}, else fp32")
    bench.add_argument("--device", default="auto")
    bench.add_argument("--compile", choices=["auto", "yes", "no"], default="auto", help=f"auto: {gpu}")
    bench.add_argument("--channels-last", choices=["auto", "yes", "no"], default="auto", help=f"auto: {gpu}")
    bench.add_argument("--gradient-checkpointing", action="store_true")
    bench.add_argument("--optimizer", choices=["adamw", "adamw-8bit"], default="adamw")
    bench.add_argument("--steps", type=int, default=5, help="steps timed at a time")
    bench.add_argument("--rounds", type=int, default=2, help="times that each way has its turn")
    bench.add_argument("--published", action="store_true", help="in turns with the published procedure, as a ratio")
    bench.add_argument("--json", type=Path, help="file to write the figures to")


def _summary(given: argparse.Namespace) -> None:
    from prunella.reporting.summary import text

    path = Path("reports/benchmark.json")
    if not path.is_file():
        raise UserError(f"{path}: there is no benchmark yet; `make repro` makes one")
    print(text(json.loads(path.read_text())))
    print(f"\nReport with pictures and curves: {path.with_name('index.html').resolve()}")
    print("MLflow: make ui, then http://127.0.0.1:5000")


def _check(given: argparse.Namespace) -> None:
    from prunella.models.teacher import describe_folder
    from prunella.params import read_params
    from prunella.pruning.mapping import check_fit
    from prunella.pruning.plan import STUDENTS, check_students

    params = read_params(given.params)
    check_students(params.students)
    if params.teacher.source in ("bundled", "folder"):  # of others the teacher stage finds out
        for name in params.students:
            check_fit(STUDENTS[name], describe_folder(Path(params.teacher.path))["unet"])
    print(f"{given.params}: all keys known, all values in range")


def _students(given: argparse.Namespace) -> None:
    from prunella.models.originals import originals, teacher_config
    from prunella.reporting.catalogue import LEGEND, catalogue
    from prunella.reporting.summary import aligned

    for teacher in [given.teacher] if given.teacher else originals():
        config = teacher_config(teacher)
        print(f"{teacher} ({_family(config, teacher).title})")
        print(aligned(catalogue(config, teacher)), end="\n\n", flush=True)
    print(LEGEND)


def _plan(given: argparse.Namespace) -> None:
    from prunella.models.originals import teacher_config
    from prunella.reporting.describe import description

    plan = _named(given.student)
    print(description(plan, teacher_config(given.teacher or ORIGINAL[plan.family])))


def _draw(given: argparse.Namespace) -> None:
    from prunella.reporting.diagram import svg

    drawn = svg(_named(given.student))
    if given.out:
        given.out.write_text(drawn)
    else:
        print(drawn, end="")


def _download(given: argparse.Namespace) -> None:
    from prunella.cli.download import counted, download
    from prunella.data.filter import shortlisted
    from prunella.params import read_params

    table = given.table
    if given.params:
        table = given.out.with_name(f"{given.out.name}.parquet")
        table.parent.mkdir(parents=True, exist_ok=True)
        read, written = shortlisted(read_params(given.params).filter, given.table, table)
        print(f"{written:,} of {read:,} rows pass: {table}", flush=True)
    download(table, given.out, given.url, given.caption, given.keep, given.size, given.processes, given.img2dataset)
    total = counted(given.out)
    print(f"{total['successes']:,} of {total['count']:,} pictures in {given.out}")


def _bench_data(given: argparse.Namespace) -> None:
    import tempfile

    from prunella.compute.device import device
    from prunella.context import quiet
    from prunella.params import read_params

    quiet()  # before what it quiets is imported
    from prunella.bench import data

    if given.rows:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "table.parquet"
            data.table(path, given.rows)
            figures = data.judged_rows(path)
        print(", ".join(f"{name} {value:,.2f}" for name, value in figures.items()))
    else:
        params = read_params(given.params)
        runtime = params.runtime.model_copy(update={"device": given.device})
        figures = data.measured(params, device(runtime))
        print("\n".join(data.lines(figures)))
    if given.json:
        given.json.write_text(json.dumps(figures, indent=1) + "\n")


def _bench_train(given: argparse.Namespace) -> None:
    from prunella.bench import train_step
    from prunella.bench.baselines import Ours, Published
    from prunella.reporting.summary import aligned

    timings = train_step.compared(
        case := _case(given),
        given.steps,
        given.rounds,
        (Ours, Published) if given.published else (Ours,),
    )
    figures = train_step.report(case, timings)
    print(aligned(train_step.rows(figures)))
    print(train_step.said(case, figures))
    if given.json:
        given.json.write_text(json.dumps(figures, indent=1) + "\n")


def _case(given: argparse.Namespace):
    from prunella.bench.workload import Workload, settings
    from prunella.compute.device import device, place
    from prunella.models.originals import teacher_config
    from prunella.params import Runtime

    plan, auto = _named(given.student), {"auto": "auto", "yes": True, "no": False}
    runtime = Runtime(
        device=given.device,
        processes=1,
        threads=0,
        compile=auto[given.compile],
        channels_last=auto[given.channels_last],
    )
    where = place(runtime, device(runtime))
    name = given.teacher_config or ORIGINAL[plan.family]
    config = teacher_config(name)
    learning = settings(
        batch_size=given.batch_size,
        precision=given.precision or ("bf16" if where.device.startswith("cuda") else "fp32"),
        gradient_checkpointing=given.gradient_checkpointing,
        optimizer=given.optimizer,
    )
    folder = Path(name) if Path(name).is_dir() else None
    return Workload(plan, config, learning, where, given.resolution, folder)


def _named(student: str):
    """The plan of a name in the catalogue, or of a YAML file."""
    from prunella.pruning.plan import STUDENTS, read_plan

    return read_plan(student) if student.endswith((".yaml", ".yml")) else STUDENTS[student]


def _family(config: dict, teacher: str):
    from prunella.models.families import FAMILIES, family, shape

    if (name := family(config)) is None:
        raise UserError(f"--teacher: {teacher} is of no known family (its UNet has {shape(config)})")
    return FAMILIES[name]


def _ui(given: argparse.Namespace) -> None:
    from prunella.tracking.mlflow import store

    os.environ.setdefault("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")  # workers for LLM judges, heavy and unused
    print(f"MLflow on {store()}: http://127.0.0.1:{given.port}", flush=True)
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", store(), "--port", str(given.port)]
    os.execv(sys.executable, command)
