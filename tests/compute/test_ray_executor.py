"""Work on a Ray cluster of two nodes on this machine, whose workers and nodes are lost in the middle."""

import os
import sys
import time
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from raycluster import cluster, pids

from prunella.compute.ray_executor import MAX_LOST_WORKERS, iter_ray_results
from prunella.errors import UserError

COUNT = 12


class Writer:
    """Writes who did a task, in a file of its own; the first task of a name in `lethal` takes its process along."""

    def __init__(self, folder: Path, lethal: str = "", always: bool = False):
        self.folder, self.lethal, self.always = folder, lethal, always
        if not folder.is_dir():
            raise UserError(f"{folder}: not there")

    def __call__(self, name: str) -> None:
        begun = self.folder / f"{name}.begun"
        if name == self.lethal and (self.always or not begun.exists()):
            begun.touch()
            os._exit(1)
        time.sleep(0.3)
        (self.folder / name).write_text(f"{os.getpid()} {os.getcwd()}")


def gone() -> bool:
    """Whether the workers end, of which Ray has been told."""
    end = time.monotonic() + 30
    while pids() and time.monotonic() < end:
        time.sleep(0.1)
    return not pids()


def done(folder: Path, **how) -> list[str]:
    return list(
        iter_ray_results(partial(Writer, folder, **how), [str(i) for i in range(COUNT)], gpu=False, format_task=str)
    )


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Ray's own, of files and sockets that it leaves to the garbage collector
class TestTwoNodes:
    @pytest.fixture(autouse=True)
    def two(self, monkeypatch):
        with cluster(monkeypatch) as it:
            yield it

    def test_all_workers_share_the_tasks(self, tmp_path):
        assert sorted(done(tmp_path), key=int) == [str(i) for i in range(COUNT)]
        said = [(tmp_path / str(i)).read_text().split() for i in range(COUNT)]
        assert len({pid for pid, _ in said}) == 2 and {folder for _, folder in said} == {os.getcwd()}
        assert gone(), pids()

    def test_a_lost_workers_task_is_done_by_another(self, tmp_path, capsys):
        assert sorted(done(tmp_path, lethal="5"), key=int) == [str(i) for i in range(COUNT)]
        assert "5: its worker was lost (" in capsys.readouterr().err
        assert {path.name for path in tmp_path.iterdir()} == {*(str(i) for i in range(COUNT)), "5.begun"}

    def test_a_lost_nodes_tasks_are_done_by_the_other(self, two, tmp_path):
        found = []
        for name in iter_ray_results(
            partial(Writer, tmp_path), [str(i) for i in range(COUNT)], gpu=False, format_task=str
        ):
            found.append(name)
            if len(found) == 3:
                two.remove_node(two.second, allow_graceful=False)
        assert sorted(found, key=int) == [str(i) for i in range(COUNT)]

    def test_a_task_that_takes_its_workers_along_is_named(self, tmp_path):
        with pytest.raises(UserError, match=f"^5: {MAX_LOST_WORKERS} workers were lost while they made it"):
            done(tmp_path, lethal="5", always=True)

    def test_what_a_worker_refuses_is_raised_here(self, tmp_path):
        with pytest.raises(UserError, match=r"^/nowhere: not there$"):
            done(Path("/nowhere"))


class Played:
    """As much of Ray as is called, on one machine whose two workers answer in the order of `played`: (worker, lost)."""

    class exceptions:
        class Lost(Exception):
            pass

        class RayTaskError(Exception):
            pass

        RayActorError = WorkerCrashedError = NodeDiedError = ObjectLostError = Lost

    def __init__(self, played: list[tuple[int, bool]]):
        self.played, self.given, self.workers, self.processors = played, [], 0, 2

    def remote(self, _):
        return SimpleNamespace(options=lambda **_: SimpleNamespace(remote=self.worker))

    def worker(self, *_):
        number, self.workers = self.workers, self.workers + 1
        method = SimpleNamespace(remote=lambda *task: self.given.append((number, *task)) or (number, *task))
        return SimpleNamespace(ready=method, do=method)

    def nodes(self):
        return [{"Alive": True, "Resources": {"CPU": float(self.processors)}}]

    def wait(self, references, timeout):
        number, self.lost = self.played.pop(0)
        return [reference for reference in references if reference[0] == number], []

    def get(self, reference):
        if self.lost:
            raise self.exceptions.Lost

    def kill(self, worker):
        self.processors -= 1  # its machine is gone with it


@pytest.fixture
def played(monkeypatch):
    """Makes a `Played` that is the cluster."""

    def make(answers: list[tuple[int, bool]]) -> Played:
        it = Played(answers)
        monkeypatch.setattr("prunella.compute.ray_executor.ray_session", lambda: nullcontext(it))
        monkeypatch.setattr("torch.get_num_threads", lambda: 1)
        return it

    return make


def test_a_task_that_is_lost_last_is_done_by_who_has_nothing_left_to_do(played):
    # Both are ready; the first has done "a" when the second is lost with "b".
    ray = played([(0, False), (1, False), (0, False), (1, True), (0, False)])
    assert list(iter_ray_results(dict, ["a", "b"], gpu=False, format_task=str)) == ["a", "b"]
    assert ray.given == [(0,), (1,), (0, "a"), (1, "b"), (0, "b")]


def test_workers_that_are_lost_while_they_load_are_said_and_end_it(played, capsys):
    ray = played([(0, True), (1, True), (2, True)])
    ray.kill = lambda worker: None  # its machine stays
    with pytest.raises(
        UserError, match=f"^what a worker loads: {MAX_LOST_WORKERS} workers were lost while they made it"
    ):
        list(iter_ray_results(dict, ["a", "b"], gpu=False, format_task=str))
    assert capsys.readouterr().err.count("what a worker loads: its worker was lost (Lost)") == 2


def test_without_an_address(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(UserError, match=r"^runtime.engine: ray, but RAY_ADDRESS is not set; `ray start --head`"):
        next(iter_ray_results(dict, [1], gpu=False, format_task=str))


def test_without_ray(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "local")
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"needs Ray: pip install 'prunella\[ray\]'"):
        next(iter_ray_results(dict, [1], gpu=False, format_task=str))
