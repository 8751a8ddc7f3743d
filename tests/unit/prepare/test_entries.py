from usseg_ray.prepare.entries import Entry, ImageSet


def image_set(*entries: Entry, classes: tuple[str, ...] = ()) -> ImageSet:
    return ImageSet("farm", classes, 255, None, entries)


def test_splits_keep_their_entries_in_order() -> None:
    a, b, c = (
        Entry(*named, "x.jpg", None) for named in (("a", "val"), ("b", "train"), ("c", "val"))
    )
    assert image_set(a, b, c).splits == {"val": (a, c), "train": (b,)}


def test_classes_that_nobody_names_are_not_counted_as_none() -> None:
    assert image_set().meaning.num_classes is None
    assert image_set(classes=("cow", "grass")).meaning.num_classes == 2
