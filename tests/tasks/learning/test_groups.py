"""Groups that a split must keep together."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.learning.groups import Grouping, hold_out, hold_out_by_name, read_grouping


def test_without_groups_every_image_stands_alone():
    assert len(set(Grouping()(["a", "b", "c"]).tolist())) == 3


def test_a_pattern_finds_the_patient():
    groups = Grouping(pattern=r"^(p\d+)_")(["p1_0", "p1_1", "p2_0", "other", "another"]).tolist()
    assert groups[0] == groups[1]
    assert len(set(groups)) == 4


def test_tables_join_groups_through_a_third_image():
    patients = {"a": "p1", "b": "p1", "c": "p2", "d": "p3"}
    copies = {"b": "1", "c": "1"}
    groups = Grouping([copies, patients])(["a", "b", "c", "d"]).tolist()
    assert groups[0] == groups[1] == groups[2] != groups[3]


def test_the_same_name_in_two_tables_joins_nothing():
    groups = Grouping([{"a": "1"}, {"b": "1"}])(["a", "b"]).tolist()
    assert groups[0] != groups[1]


def test_a_column_of_the_table_or_a_pattern_is_read(tmp_path):
    (tmp_path / "labels.csv").write_text("file,label,patient\na_1.png,x,p\na_2.png,y,p\nb.png,x,\nc.png,x,\n")
    by_column = read_grouping(tmp_path, "patient")(["a_1", "a_2", "b", "c"]).tolist()
    assert by_column[0] == by_column[1]
    assert len(set(by_column)) == 3
    by_pattern = read_grouping(tmp_path, "^([a-z])")(["a_1", "a_2", "b"]).tolist()
    assert by_pattern[0] == by_pattern[1] != by_pattern[2]


def test_duplicates_are_kept_together_whatever_the_patients(tmp_path):
    (tmp_path / "duplicates.csv").write_text("file,group\na.png,1\nb.png,1\n")
    groups = read_grouping(tmp_path, "", tmp_path / "duplicates.csv")(["a", "b", "c"]).tolist()
    assert groups[0] == groups[1] != groups[2]


@pytest.mark.parametrize(
    ("table", "group_by", "words"),
    [
        ("", "patient", "no column .there is no labels.csv. and no pattern"),
        ("file,label\na,b\n", "patient", "labels.csv has the columns file, label"),
        ("", "(", "is no regular expression"),
        ("name,label\n", "patient", "has no column 'file'; it has name, label"),
    ],
)
def test_a_grouping_that_cannot_be_is_explained(tmp_path, table, group_by, words):
    if table:
        (tmp_path / "labels.csv").write_text(table)
    with pytest.raises(ValueError, match=words):
        read_grouping(tmp_path, group_by)


@given(
    st.lists(st.integers(0, 8), min_size=2, max_size=60),
    st.floats(0.05, 0.5),
    st.integers(0, 100),
    st.booleans(),
)
def test_no_group_is_ever_on_both_sides(groups, share, seed, classes):
    rng = np.random.default_rng(seed)
    given_classes = [group % 2 for group in groups] if classes else None
    held = hold_out(groups, share, rng, given_classes)
    inside = {groups[index] for index in held}
    outside = {group for index, group in enumerate(groups) if index not in held}
    assert not inside & outside
    assert outside
    wanted = round(share * len(groups))
    if wanted and len(set(groups)) > 1:
        assert held
        smallest = min(groups.count(group) for group in groups)
        assert len(held) <= max(wanted, smallest)
    else:
        assert not held


def test_of_several_splits_the_one_with_every_class_on_both_sides_is_taken():
    groups = [number // 2 for number in range(20)]
    classes = [0] * 16 + [1] * 4
    for seed in range(30):
        held = hold_out(groups, 0.2, np.random.default_rng(seed), classes)
        inside = {classes[index] for index in held}
        outside = {classes[index] for index in range(20) if index not in held}
        assert inside == outside == {0, 1}


@given(st.lists(st.sampled_from("abcdefghijklmnop"), min_size=2, max_size=60), st.integers(0, 50))
def test_a_group_stays_on_its_side_when_others_come(names, seed):
    held = set(hold_out_by_name(names, 0.2, seed))
    sides = {name: index in held for index, name in enumerate(names)}
    assert all(sides[name] == (index in held) for index, name in enumerate(names))
    if len(sides) > 1:
        assert set(sides.values()) == {True, False}
    more = [*names, *(f"new{i}" for i in range(40))]
    again = set(hold_out_by_name(more, 0.2, seed))
    moved = {name for index, name in enumerate(names) if not sides[name] and index in again}
    # Only where all but one were held out, that one was trained on for want of others.
    assert not moved or sum(sides.values()) == len(sides) - 1


def test_about_the_share_of_groups_is_held_out():
    names = [f"group{i}" for i in range(1000)]
    assert 150 < len(hold_out_by_name(names, 0.2, 0)) < 250
    assert hold_out_by_name(names, 0.2, 0) != hold_out_by_name(names, 0.2, 1)
    assert hold_out_by_name(["a", "a", "a"], 0.2, 0) == []
