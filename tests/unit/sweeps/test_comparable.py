from usseg_ray.sweeps.comparable import agreed


def test_what_methods_agree_in() -> None:
    one = {"seed": 0, "method.lr": 1, "train.epochs": 3}
    assert agreed([one]) == one
    assert agreed([one, {"seed": 0, "method.lr": 1, "train.epochs": 4}]) == {"seed": 0}
