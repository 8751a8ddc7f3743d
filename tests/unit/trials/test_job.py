import pickle
from dataclasses import replace

import pytest

from tests import tiny
from usseg_ray.core.errors import UserError
from usseg_ray.core.views import FixedView, Frame
from usseg_ray.trials.job import HERE, Job, Placement, StoredView


def job(**settings: object) -> Job:
    view = StoredView("train", FixedView.of(Frame(32)), "key")
    config = tiny.config("acseg", **settings)
    return Job("acseg", config, "/data", Placement("cuda", "readers", (view,)))


def test_jobs_travel() -> None:
    there = pickle.loads(pickle.dumps(job()))
    assert there == job()
    assert type(there.config) is type(job().config)
    assert there != job(method__gamma=9.0)


def test_its_settings_stay_out_of_names_and_logs() -> None:
    assert "gamma" not in repr(job())
    assert "acseg" in repr(job())


def test_k_is_a_number_or_an_error() -> None:
    assert job().num_clusters == 3
    with pytest.raises(UserError, match="num_clusters is not set"):
        _ = job(num_clusters=None).num_clusters


def test_a_job_is_not_changed_by_those_made_of_it() -> None:
    one = job()
    smaller = replace(one, shared="key").with_training(batch_size=2, eval_every=9)
    # It trains as no other one does.
    assert smaller.shared == ""
    assert (smaller.config.train.batch_size, smaller.config.train.eval_every) == (2, 9)
    assert smaller.config.train.epochs == one.config.train.epochs
    assert smaller.placement == one.placement
    assert one == job()


def test_a_process_that_reads_itself_finds_what_is_stored() -> None:
    alone = job().reading_itself()
    assert alone.placement == Placement("cuda", "", job().placement.stored)
    assert alone.config == job().config
    assert Placement("cpu", "", ()) == HERE
