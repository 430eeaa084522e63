"""Label names stay as they were, or grow at the end."""

import pytest

from strategies.catalogue import CATALOGUE
from tasks.rounds.reconciliation import ImageState, Label
from tasks.store.label_names import LabelNames, SchemaError
from tests.tiny import change_images, history_of, sync_images, take_label

FIRST = CATALOGUE["first"]


@pytest.fixture
def names(store, pool) -> LabelNames:
    """Two of twelve images labelled for ``tumor`` and ``edema``."""
    names = LabelNames(store)
    names.declare(["tumor", "edema"])
    change_images(store, {pool[0]: True, pool[1]: True})
    return names


@pytest.mark.parametrize(
    ("labels", "add"),
    [
        (["edema", "tumor"], False),
        (["edema", "tumor"], True),
        (["tumor"], True),
        (["tumour", "edema"], True),
        (["tumor", "necrosis", "edema"], True),
        (["tumor", "edema", "necrosis"], False),
    ],
)
def test_other_names_are_refused_in_one_line_that_tells_how_to_go_on(names, labels, add):
    with pytest.raises(SchemaError) as refused:
        names.declare(labels, add=add)
    words = str(refused.value)
    assert "\n" not in words
    assert '--conf labels "tumor,edema' in words
    assert "--conf relabel true" in words
    assert names.names() == ["tumor", "edema"]


def test_another_first_value_is_refused_too(names):
    with pytest.raises(SchemaError):
        names.declare(["tumor", "edema"], first_value=0)


def test_names_of_a_start_before_anything_was_labelled_may_be_replaced(store, pool):
    names = LabelNames(store)
    names.declare(["tumour"])
    names.declare(["tumor"])
    assert names.names() == ["tumor"]
    change_images(store, {pool[0]: True})
    with pytest.raises(SchemaError):
        names.declare(["tumour"])


def test_images_labelled_before_a_name_was_added_are_not_annotated_for_it(names, store, pool, rounds):
    assert (names.known_names(), names.not_annotated()) == ({}, {})
    names.declare(["tumor", "edema", "necrosis"], add=True)
    take_label(rounds, pool[2], "ann")
    names.declare(["tumor", "edema", "necrosis", "cyst"], add=True)
    names.declare(["tumor", "edema", "necrosis", "cyst"])
    take_label(rounds, pool[3], "ann")
    assert names.known_names() == {pool[0]: 2, pool[1]: 2, pool[2]: 3}
    assert names.not_annotated() == {"necrosis": pool[:2], "cyst": pool[:3]}
    take_label(rounds, pool[0], "ann")
    change_images(store, {pool[1]: None})
    assert names.not_annotated() == {"cyst": pool[2:3]}
    change_images(store, {pool[1]: True})  # back as it was
    assert names.not_annotated() == {"necrosis": [pool[1]], "cyst": pool[1:3]}


def test_they_are_given_out_again_until_they_have_a_new_label(names, store, pool, rounds):
    names.declare(["tumor", "edema", "necrosis"], add=True)
    before = store.label_revision()
    assert rounds.next_image(FIRST, "bob").image_id == pool[2]
    assert names.reopen("necrosis", "ann") == 2
    assert names.reopen("necrosis", "ann") == 0
    assert (store.labelled_count(), store.label_count(), store.label_revision()) == (0, 2, before)
    sync_images(store, {name: name in pool[:2] for name in pool})  # a restart: their labels are still there
    change_images(store, {pool[0]: True})
    assert store.labelled_count() == 0
    rounds.forget_plans()
    served = []
    while (given := rounds.next_image(FIRST, "ann")) is not None:
        served.append(given.image_id)
        take_label(rounds, given.image_id, "ann")
    assert set(pool[:2]) < set(served)
    assert names.not_annotated() == {}
    assert [row["image_id"] for row in history_of(store) if row["event"] == "reopened"] == pool[:2]


def test_a_reopened_image_whose_label_is_removed_or_changed_by_hand_is_reopened_no_more(names, store, rounds, pool):
    rounds.note([ImageState(image_id, label=Label(f"file:{image_id}")) for image_id in pool[:2]])
    names.declare(["tumor", "edema", "necrosis"], add=True)
    names.reopen("necrosis", "ann")
    rounds.note([ImageState(image_id, label=Label(f"file:{image_id}")) for image_id in pool[:2]])  # a restart
    assert store.image_ids(labelled=True) == []
    noted = rounds.note([ImageState(pool[0]), ImageState(pool[1], label=Label("file:another"))])
    assert noted.taken_back == {}
    assert (store.image_ids(labelled=True), store.label_count()) == ([pool[1]], 1)
    assert names.not_annotated() == {}


def test_an_unknown_name_cannot_be_asked_for(names):
    with pytest.raises(SchemaError, match="label must be one of tumor, edema; got 'cyst'"):
        names.reopen("cyst", "ann")
