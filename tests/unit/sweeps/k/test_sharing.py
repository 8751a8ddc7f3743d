from pathlib import Path
from typing import Any

from usseg_ray.sweeps.k.sharing import sharing, trained, trainings
from usseg_ray.sweeps.plan import Plan, make_plan
from usseg_ray.sweeps.request import Request, with_spaces


def test_a_question_about_k_shares_trainings_and_says_so() -> None:
    def asked(method: str) -> Plan:
        return make_plan(
            Request(
                methods=with_spaces([method], None),
                assigned={"backbone.name": "textons"},
                question="k",
                num_samples=3,
                seeds=2,
            )
        )

    stego = asked("stego")
    job_of = sharing(stego)
    keys = [job_of(name, sample or {}, None).shared for name, sample in stego.draws.values()]
    assert len(keys) == 6
    assert [keys.count(key) for key in dict.fromkeys(keys)] == [3, 3]
    assert trained(stego) == {"stego": 2}
    assert trainings(stego) == [
        "stego: 2 of 6 trials are trained; the others differ in what its training does not read."
    ]
    assert trainings(asked("smooseg")) == [
        "smooseg: all 6 trials are trained; its training reads K."
    ]
    assert trainings(asked("kmeans")) == []


def test_other_sweeps_share_what_several_of_their_trials_agree_on(tmp_path: Path) -> None:
    space, said = tmp_path / "space.yaml", list[str]()

    def keys(drawn: str, **changes: Any) -> list[str]:
        space.write_text(f"space: {drawn}")
        asked = {"methods": {"stego": str(space)}, "num_samples": 3} | changes
        plan = make_plan(Request(assigned={"backbone.name": "textons"}, **asked))
        job_of = sharing(plan)
        said.extend(trainings(plan))
        return [job_of(name, sample or {}, None).shared for name, sample in plan.draws.values()]

    clusters, dropout = "num_clusters: {choice: [2, 3]}", "method.dropout: {uniform: [0.1, 0.5]}"
    (found,) = set(keys(f"{{{clusters}}}"))
    assert found
    # Each trial trains otherwise; nothing varies but the training; trials are stopped early.
    assert set(keys(f"{{{clusters}, {dropout}}}")) == {""}
    assert set(keys(f"{{{dropout}}}")) == {""}
    assert set(keys(f"{{{clusters}}}", scheduler="asha")) == {""}
    assert said == [
        "stego: 1 of 3 trials are trained; the others differ in what its training does not read."
    ]
