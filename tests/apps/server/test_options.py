"""``--conf`` options: text in, typed values out, clear refusals."""

import contextlib
from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st
from monailabel.interfaces.utils.app import app_instance

from apps.server.options import ConfigurationError, ImageOptions, Options, VolumeOptions
from strategies.catalogue import CATALOGUE
from tasks.rounds.rounds import Rounds
from tasks.store.store import Store
from tests.server import APP
from tests.tiny import sync_images


def test_defaults_are_the_app_s():
    options = Options.parse({}, labels=("tumor",))
    assert options == Options(labels=("tumor",))
    assert (options.batch_size, options.lease_minutes, options.auto_train) == (10, 60.0, True)


def test_values_come_as_text():
    conf = {
        "labels": "anterior, posterior",
        "batch_size": "3",
        "lease_minutes": "0.5",
        "auto_train": "False",
        "channels": "t1c,t2",
        "seed": "7",
    }
    options = VolumeOptions.parse(conf, labels=("tumor",))
    assert options.labels == ("anterior", "posterior")
    assert options.channels == ("t1c", "t2")
    assert (options.batch_size, options.lease_minutes, options.auto_train, options.seed) == (3, 0.5, False, 7)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("colour", "red", "unknown option 'colour'; known are strategy"),
        ("batch_size", "0", "batch_size must be between 1 and 1000000, got 0"),
        ("max_voxels", "0", "max_voxels must be between 1 and 1099511627776, got 0"),
        ("max_pixels", "1e9", "max_pixels must be a whole number, got '1e9'"),
        ("batch_size", "1.5", "batch_size must be a whole number, got '1.5'"),
        ("train_after", "-1", "train_after must be between 0 and 1000000000, got -1"),
        ("lease_minutes", "0", "lease_minutes must be positive"),
        ("lease_minutes", "nan", "lease_minutes must be a number, got 'nan'"),
        ("lease_minutes", "soon", "lease_minutes must be a number"),
        ("auto_train", "yes please", "auto_train must be true or false"),
        ("labels", "a,a", "labels must be different names"),
        ("labels", "../evil", "labels must be different names"),
        ("channels", "t1/../..", "channels must be different names"),
        ("hosts", "a.example,https://b.example", "hosts: 'https://b.example' is not a host name"),
        ("origins", "viewer.example", "origins: 'viewer.example' is not an origin"),
    ],
)
def test_refusals_name_the_option_and_the_value(name, value, words):
    with pytest.raises(ConfigurationError, match=words):
        VolumeOptions.parse({name: value}, labels=("tumor",))


ODD = {
    "strategy": ["nonsense", "random\n", "\ud800"],
    "batch_size": ["1e3", "0", "-1", "inf", "9" * 30, "9" * 5000, "", " ", "0x10", "1.0", "true"],
    "train_after": ["-1", "1e3", "9" * 30, "nan"],
    "lease_minutes": ["inf", "-inf", "nan", "1e308", "1e8", "0", "-1", "", "1,5", "soon", "9" * 400],
    "seed": ["-1", str(2**31), str(2**63), str(2**64), "1.5", "x"],
    "preset": ["huge", "small\0"],
    "labels": ["", ",", "a,a", "../x", "a/b", "a\nb", "x" * 300, "\ud800"],
    "group_by": ["(", "[", "*", "nosuchcolumn", "a\0b"],
    "store": ["{folder}", "/proc/nosuch/store.sqlite", "nosuch://x", "postgresql+nosuch://x", "postgresql://x:port/y",
              "sqlite://", "sqlite:///:memory:", "sqlite:////proc/x.sqlite", "://", "a\0b", "{text}", "x" * 5000],
    "relabel": ["maybe", "", "2"],
    "auto_train": ["yes", "-1", "", "TRUE!"],
    "tags": ["history", "my tag", "a,a", "..", "ä", "x" * 65],
    "hosts": ["http://a", "a/b", "a:x", "ä ö", "*", "a b"],
    "origins": ["a.example", "ftp://a", "*", "http://", "https://a/b"],
    "max_voxels": ["0", "-1", "1e9", "2**30", "9" * 30],
    "max_pixels": ["0", "nan", "9" * 30],
    "max_upload_mb": ["0", "-1", "1e3", "inf", "9" * 30],
    "channels": ["a,a", "../x", "a/b", "x" * 300],
    "allow_empty": ["maybe", ""],
    "series": ["", ":", "CT:(", "MR:*", "C/T", "CT:[\n"],
    "weights": ["{folder}", "{folder}/nothing", "a\0b", "x" * 5000],
    "start_from": ["{folder}", "{folder}/nothing", "{text}", "a\0b", "x" * 5000],
    "bundle": ["{folder}", "{folder}/nothing", "a\0b", "x" * 5000],
    "network": ["unheard_of", "unet", "../x", "a\0b"],
}  # fmt: skip


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in ODD.items() for value in values])
def test_odd_values_of_every_option_stop_the_start_with_one_line_that_names_it(tmp_path, monkeypatch, name, value):
    monkeypatch.setattr("monailabel.interfaces.utils.app.apps", {})
    studies = tmp_path / "studies"
    studies.mkdir()
    (tmp_path / "text").write_text("no database" * 1000)
    value = value.replace("{folder}", str(tmp_path)).replace("{text}", str(tmp_path / "text"))
    app = "image_segmentation" if name == "weights" else "volume_segmentation"
    with pytest.raises(ConfigurationError, match=name) as caught:
        app_instance(str(APP.parent / app), str(studies), {"preset": "small", "auto_train": "false", name: value})
    assert "\n" not in str(caught.value)
    assert not list(studies.rglob("*.nii.gz"))


def test_every_option_is_tried_with_odd_values():
    every = {item.name: item.type for kind in (Options, VolumeOptions, ImageOptions) for item in fields(kind)}
    assert set(ODD) == set(every)
    assert set(LARGEST) == {name for name, kind in every.items() if "between(" in str(kind)}


@pytest.mark.parametrize(("text", "value"), [("true", True), ("FALSE", False), ("1", True), ("0", False)])
def test_true_and_false_are_written_as_in_requests(text, value):
    assert Options.parse({"auto_train": text}).auto_train is value


LARGEST = {
    "batch_size": 1_000_000,
    "train_after": 1_000_000_000,
    "seed": 2**31 - 1,
    "max_upload_mb": 1 << 20,
    "lease_minutes": 10_000_000,
    "max_voxels": 2**40,
    "max_pixels": 2**40,
}


@pytest.mark.parametrize(("name", "high"), LARGEST.items())
def test_the_largest_values_work(tmp_path, name, high):
    with pytest.raises(ConfigurationError, match=f"option {name} must be between [01] and {high}, got {high + 1}"):
        Options.parse({name: str(high + 1)})
    options = Options.parse({name: str(high)})
    store = Store(tmp_path / "store.sqlite")
    sync_images(store, {"a": False, "b": False})
    rounds = Rounds(store, options.batch_size, options.lease_minutes, options.seed)
    assert rounds.next_image(CATALOGUE["random"], "ann").image_id in ("a", "b")
    store.close()


@given(
    st.sampled_from(["batch_size", "lease_minutes", "auto_train", "labels", "channels", "seed", "hosts", "origins"]),
    st.text(),
)
def test_any_text_is_taken_or_refused(name, text):
    with contextlib.suppress(ConfigurationError):
        options = VolumeOptions.parse({name: text}, labels=("tumor",))
        assert options.batch_size >= 1
        assert options.lease_minutes > 0
        assert options.seed >= 0
        assert not any({"/", "\\", "."} & set(part) for part in (*options.labels, *options.channels))
