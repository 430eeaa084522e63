"""``--conf`` options: text in, typed values out, clear refusals."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.options import ConfigurationError, Options, VolumeOptions


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
        ("batch_size", "0", "batch_size must be at least 1, got 0"),
        ("max_voxels", "0", "max_voxels must be at least 1, got 0"),
        ("max_pixels", "1e9", "max_pixels must be a whole number, got '1e9'"),
        ("batch_size", "1.5", "batch_size must be a whole number, got '1.5'"),
        ("train_after", "-1", "train_after must be at least 0"),
        ("lease_minutes", "0", "lease_minutes must be positive"),
        ("lease_minutes", "nan", "lease_minutes must be positive"),
        ("lease_minutes", "soon", "lease_minutes must be a number"),
        ("auto_train", "yes please", "auto_train must be true or false"),
        ("labels", "a,a", "labels must be different names"),
        ("labels", "../evil", "labels must be different names"),
        ("channels", "t1/../..", "channels must be different names"),
    ],
)
def test_refusals_name_the_option_and_the_value(name, value, words):
    with pytest.raises(ConfigurationError, match=words):
        VolumeOptions.parse({name: value}, labels=("tumor",))


@given(st.sampled_from(["batch_size", "lease_minutes", "auto_train", "labels", "channels", "seed"]), st.text())
def test_any_text_is_taken_or_refused(name, text):
    with contextlib.suppress(ConfigurationError):
        options = VolumeOptions.parse({name: text}, labels=("tumor",))
        assert options.batch_size >= 1
        assert options.lease_minutes > 0
        assert options.seed >= 0
        assert not any({"/", "\\", "."} & set(part) for part in (*options.labels, *options.channels))
