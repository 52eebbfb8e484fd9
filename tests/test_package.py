import prunella


def test_what_the_package_offers_is_listed_for_completion():
    assert {"STUDENTS", "prune", "distill", "finetune"} <= set(dir(prunella))
    assert all(callable(getattr(prunella, name)) for name in ("prune", "distill", "finetune", "student_config"))
