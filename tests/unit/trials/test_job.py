import pickle
from dataclasses import replace
from typing import Any

import pytest

from usseg_ray.trials.job import Draw, Jobs, JobTemplate


def template(num_classes: int = 10, **changed: Any) -> JobTemplate:
    base = {"num_clusters": None, "clusters_per_class": 1.0, "method.gamma": 1.0, "seed": 0}
    return JobTemplate("acseg", base | changed, {"seed": 7}, num_classes, "/data", "cuda", "group")


def test_set_wins_over_samples_and_samples_over_the_base() -> None:
    job = template().job({"method.gamma": 2.0, "seed": 5})
    assert job.settings["method.gamma"] == 2.0
    assert job.settings["seed"] == 7
    assert (job.method, job.root, job.device, job.reading) == ("acseg", "/data", "cuda", "group")


@pytest.mark.parametrize(
    ("classes", "ratio", "clusters"), [(10, 1.0, 10), (10, 0.75, 8), (21, 1.5, 32), (3, 0.1, 2)]
)
def test_k_follows_from_the_classes(classes: int, ratio: float, clusters: int) -> None:
    job = template(classes).job({"clusters_per_class": ratio})
    assert job.settings["num_clusters"] == clusters


def test_a_given_k_stays() -> None:
    assert template(num_clusters=4).job({}).settings["num_clusters"] == 4
    assert template().job({"num_clusters": 6}).settings["num_clusters"] == 6


def test_without_classes_k_stays_open() -> None:
    assert template(0).job({}).settings["num_clusters"] is None


def test_a_template_is_not_changed_by_its_jobs() -> None:
    one = template()
    one.job({"method.gamma": 9.0})
    assert one == template()


def test_jobs_travel() -> None:
    job = template().job({})
    assert pickle.loads(pickle.dumps(job)) == job


def test_a_planned_trial_is_found_by_its_name() -> None:
    other = JobTemplate("kmeans", template().base, {}, 10, "/data")
    draws = (Draw("acseg", {"seed": 1}), Draw("kmeans", {"seed": 2}))
    jobs = Jobs({"acseg": template(), "kmeans": other}, {"trial_001": draws[1], "a": draws[0]})
    assert jobs.draw({"trial": "trial_001"}) == draws[1]
    job = jobs.job(draws[1])
    assert (job.method, job.settings["seed"]) == ("kmeans", 2)


def test_a_searcher_says_which_method_it_draws_for() -> None:
    jobs = Jobs({"acseg": template(), "kmeans": template()}, {})
    config = {"method": "acseg", "method.gamma": 2.0}
    assert jobs.draw(config) == Draw("acseg", {"method.gamma": 2.0})
    assert config == {"method": "acseg", "method.gamma": 2.0}


def test_a_finalist_has_another_seed_whatever_was_set() -> None:
    jobs = Jobs({"acseg": template()}, {})
    draw = Draw("acseg", {"method.gamma": 2.0}, seed=9)
    assert jobs.job(draw).settings == jobs.job(replace(draw, seed=None)).settings | {"seed": 9}


def test_jobs_come_to_a_cluster() -> None:
    jobs = Jobs({"acseg": template()}, {"one": Draw("acseg", {})}).on("cpu", "readers")
    job = jobs.job(jobs.planned["one"])
    assert (job.device, job.reading) == ("cpu", "readers")


def test_jobs_know_the_form_that_was_chosen() -> None:
    one = template()
    one = replace(one, base=one.base | {"resources.num_workers": "auto"})
    jobs = Jobs({"acseg": one}, {"one": Draw("acseg", {})})
    chosen = jobs.in_processes(0)
    assert chosen.job(chosen.planned["one"]).settings["resources.num_workers"] == 0
    assert chosen.job(chosen.planned["one"]).settings["seed"] == 7
    assert jobs.job(jobs.planned["one"]).settings["resources.num_workers"] == "auto"
