import pytest

from usseg_ray.cluster.worker_pool import Pool, PoolActor, Work, restarts, share_out
from usseg_ray.core.errors import UserError


def test_a_worker_is_made_once_with_its_first_items() -> None:
    made: list[int] = []

    def make() -> Work[int, list[int]]:
        made.append(1)
        return lambda items: [2 * item for item in items]

    worker = PoolActor(make)
    assert made == []
    assert worker.work([1, 2]) == [2, 4]
    assert worker.work([3]) == [6]
    assert made == [1]


def test_what_goes_wrong_in_making_it_is_told_by_its_first_work() -> None:
    def make() -> Work[int, list[int]]:
        raise UserError("no such model")

    worker = PoolActor(make)
    with pytest.raises(UserError, match="no such model"):
        worker.work([1])


@pytest.mark.parametrize("cpus", [1, 2, 3, 4, 7, 8, 16, 96])
def test_reading_tasks_always_find_a_cpu(cpus: float) -> None:
    for device, gpus in (("cpu", 0), ("cuda", 1), ("cuda", 8)):
        pool = share_out({"CPU": cpus, "GPU": gpus}, device, cpus)
        assert pool.actors >= 1
        assert 0 < pool.read_cpus <= pool.reading
        assert pool.actors * pool.cpus + pool.reading == pytest.approx(cpus)


def test_an_actor_drives_one_gpu() -> None:
    pool = share_out({"CPU": 16, "GPU": 4}, "cuda", 16)
    assert pool == Pool(actors=4, cpus=1, gpus=1, threads=1, read_cpus=1, reading=12)


def test_without_gpus_a_few_actors_compute_with_a_few_threads() -> None:
    assert share_out({"CPU": 2}, "cpu", 2) == Pool(1, 1.75, 0, 2, 0.25, 0.25)
    assert share_out({"CPU": 16}, "cpu", 16) == Pool(4, 3.75, 0, 4, 0.25, 1)


def test_an_actor_fits_a_node() -> None:
    assert share_out({"CPU": 2}, "cpu", 1) == Pool(2, 0.75, 0, 1, 0.25, 0.5)


def test_an_actor_is_started_again_where_it_may_find_another_machine() -> None:
    assert restarts(1) == 0
    assert restarts(2) == -1
