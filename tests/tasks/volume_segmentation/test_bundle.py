"""A MONAI bundle: its network, weights and preprocessing, read, fine-tuned and scored."""

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from monai.networks.nets import UNet
from monai.transforms import (
    Compose,
    EnsureChannelFirstd,
    LoadImaged,
    Orientationd,
    ScaleIntensityRanged,
    Spacingd,
)

from tasks.learning.start_from import load_matching, read_weights
from tasks.segmentation import outside
from tasks.segmentation.models import SINGLE, segmentation_models
from tasks.segmentation.networks import Architecture
from tasks.segmentation.outside import BUNDLE
from tasks.segmentation.records import SCORES
from tasks.volume_segmentation.bundle import BundleError, read_bundle
from tasks.volume_segmentation.inference import checkpoint_preprocessing
from tasks.volume_segmentation.presets import PRESETS
from tasks.volume_segmentation.scoring import ScoreVolumes
from tasks.volume_segmentation.training import VolumeTrainTask
from tests.tiny import QUICK, sync_images

NETWORK = {
    "_target_": "UNet",
    **{"spatial_dims": 3, "in_channels": "@channels", "out_channels": 3, "channels": [4, 8, 16], "strides": [2, 2]},
    "dropout": 0.2,
}
STEPS = [
    {"_target_": "LoadImaged", "keys": "@image_key"},
    {"_target_": "EnsureChannelFirstd", "keys": "@image_key"},
    {"_target_": "Orientationd", "keys": "@image_key", "axcodes": "RAS"},
    {"_target_": "Spacingd", "keys": "@image_key", "pixdim": [1.5, 1.0, 2.0], "mode": "bilinear"},
    {
        **{
            "_target_": "monai.transforms.ScaleIntensityRanged",
            "keys": "@image_key",
            "a_min": "$-1 * 57",
            "a_max": 164,
        },
        **{"b_min": 0, "b_max": 1, "clip": True},
    },
    {"_target_": "EnsureTyped", "keys": "@image_key"},
]
CONFIG = {
    **{"imports": ["$import glob"], "image_key": "image", "channels": 1, "network_def": NETWORK},
    "network": "$@network_def.to('cpu')",
    "preprocessing": {"_target_": "Compose", "transforms": STEPS},
    "inferer": {"_target_": "SlidingWindowInferer", "roi_size": [30, 32, 20], "overlap": "$1 / 4"},
}
METADATA = {"network_data_format": {"inputs": {"image": {"num_channels": 1, "spatial_shape": [32, 32, 32]}}}}


def network(out_channels: int = 3) -> UNet:
    return UNet(3, 1, out_channels, [4, 8, 16], [2, 2], dropout=0.2)


@pytest.fixture
def make(tmp_path):
    """Writes a bundle, changed where a test says so."""

    def write(metadata=METADATA, weights=True, **changes) -> Path:
        folder = tmp_path / "spleen"
        (folder / "configs").mkdir(parents=True, exist_ok=True)
        content = {name: value for name, value in {**CONFIG, **changes}.items() if value is not None}
        (folder / "configs" / "inference.json").write_text(json.dumps(content))
        if metadata is not None:
            (folder / "configs" / "metadata.json").write_text(json.dumps(metadata))
        if weights:
            torch.manual_seed(5)
            (folder / "models").mkdir(exist_ok=True)
            torch.save(network().state_dict(), folder / "models" / "model.pt")
        return folder

    yield write
    outside._PROVIDED.clear()
    outside.registered.cache_clear()
    outside.divisor_of.cache_clear()


def test_what_a_bundle_says_is_read_with_its_expressions_and_references(make):
    bundle = read_bundle(make())
    assert (bundle.in_channels, bundle.spacing, bundle.roi, bundle.overlap) == (1, (1.5, 1.0, 2.0), (30, 32, 20), 0.25)
    assert bundle.intensity == (
        ("ScaleIntensityRange", {"a_min": -57, "a_max": 164, "b_min": 0, "b_max": 1, "clip": True}),
    )
    made = bundle.network(1, 2, 3)
    assert made.divisor == 4
    assert made(torch.zeros(1, 1, 8, 8, 8)).shape == (1, 2, 8, 8, 8)
    _, embedding = made.features(torch.rand(1, 1, 16, 16, 16))
    assert embedding.shape == (1, 16 + 8)  # the deepest level, and what skips it
    matched = load_matching(made, read_weights(bundle.weights))
    assert matched.missing == matched.unused == ()
    assert matched.loaded
    assert matched.other_shape  # its classes
    outside.provide(BUNDLE, bundle.network)
    preset = bundle.fitted(PRESETS["small"])
    assert (preset.network, preset.roi_size, preset.overlap, preset.patch_size) == (
        BUNDLE,
        "32x32x20",
        0.25,
        "32x48x32",
    )


def test_images_are_prepared_as_the_bundle_itself_prepares_them(make, tmp_path):
    bundle = read_bundle(make())
    rng = np.random.default_rng(0)
    affine = np.diag([-1.0, 1.0, 1.0, 1.0])
    nibabel.save(nibabel.Nifti1Image(rng.normal(50, 60, (24, 20, 18)).astype(np.float32), affine), tmp_path / "i.nii")
    outside.provide(BUNDLE, bundle.network)
    task = VolumeTrainTask(SINGLE, "", segmentation_models(tmp_path / "m", None), PRESETS["small"], ("a", "b"))
    task.bundle = bundle
    settings = task.inference_settings(bundle.fitted(PRESETS["small"]))
    architecture = bundle.fitted(PRESETS["small"]).architecture(1, 3)
    checkpoint = type("Some", (), {"architecture": architecture, "preprocessing": settings})
    ours = checkpoint_preprocessing(checkpoint, ())({"image": str(tmp_path / "i.nii")})["image"]
    theirs = Compose(
        [
            LoadImaged("image"),
            EnsureChannelFirstd("image"),
            Orientationd("image", axcodes="RAS", labels=None),
            Spacingd("image", pixdim=[1.5, 1.0, 2.0], mode=3, padding_mode="border"),
            ScaleIntensityRanged("image", a_min=-57, a_max=164, b_min=0, b_max=1, clip=True),
        ]
    )({"image": str(tmp_path / "i.nii")})["image"]
    assert torch.allclose(ours.as_tensor(), theirs.as_tensor())
    assert float(ours.min()) >= 0
    assert json.loads(json.dumps(settings)) == settings  # a checkpoint keeps plain values


def test_it_is_fine_tuned_published_and_scored(make, datastore, tmp_path, store, caplog):
    caplog.set_level("INFO")
    bundle = read_bundle(make())
    outside.provide(BUNDLE, bundle.network)
    registry = segmentation_models(tmp_path / "models", store, labels=("tumor",))
    task = VolumeTrainTask(SINGLE, "test", registry, bundle.fitted(PRESETS["small"]), ("tumor",))
    task.bundle, task.start_from = bundle, str(bundle.weights)
    task({name: value for name, value in QUICK.items() if name not in ("levels", "first_features")}, datastore)
    assert "starts from" in caplog.text
    assert registry.load(SINGLE).preprocessing["intensity"] == [list(bundle.intensity[0])]
    sync_images(store, dict.fromkeys(datastore.list_images(), False))
    ScoreVolumes(registry, store, passes=3)({"device": "cpu"}, datastore)
    records = store.records(registry.scoring_version())
    assert {record.error for record in records} == {None}
    assert set(records[0].scores) == set(SCORES)
    assert records[0].scores["dropout_variance"] > 0


def step(number: int, **changes) -> dict:
    steps = [dict(each) for each in STEPS]
    steps[number] |= changes
    return {"preprocessing": {"_target_": "Compose", "transforms": steps}}


@pytest.mark.parametrize(("disabled", "taken"), [(True, 0), ("true", 0), ("$True", 0), (False, 1), ("$1 > 2", 1)])
def test_a_transform_that_the_bundle_has_disabled_is_not_applied(make, disabled, taken):
    assert len(read_bundle(make(**step(4, _disabled_=disabled))).intensity) == taken


def test_without_its_bundle_a_checkpoint_says_what_to_give():
    assert Architecture(1, 2, network=BUNDLE).lacks == "its network is a bundle's: start with --conf bundle FOLDER"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"network_def": None}, "network_def is missing"),
        ({"network_def": "$print('x')"}, "network_def must be an object"),
        ({"network_def": {**NETWORK, "_target_": "NoSuchNet"}}, "network_def cannot be made"),
        ({"network_def": {**NETWORK, "spatial_dims": 2}}, "network_def does not work for 1 channels and 2 classes"),
        ({"network_def": {"_target_": "torch.device", "device": "cpu"}}, "network_def is no network but device"),
        ({"preprocessing": None}, "preprocessing is missing"),
        ({"preprocessing": "text"}, "preprocessing must be a list"),
        (step(2, axcodes="LPS"), "preprocessing#transforms#2 needs axcodes 'LPS'; RAS is supported"),
        (step(3, pixdim=[1.0, 1.0]), r"preprocessing#transforms#3 needs pixdim \[1.0, 1.0\]"),
        (step(4, _target_="CropForegroundd"), "preprocessing#transforms#4 has 'CropForegroundd', which is not supp"),
        (step(4, _target_="builtins.print"), "preprocessing#transforms#4 has 'builtins.print', which is not supported"),
        (step(4, a_min="$1 / 0"), "preprocessing#transforms#4 cannot be read"),
        (step(4, a_min="@nowhere"), "preprocessing#transforms#4 cannot be read"),
        ({"inferer": "$monai.inferers.SimpleInferer()"}, "inferer must be an object"),
        ({"inferer": "@network"}, "inferer must be an object"),
        (step(4, _disabled_="$1 / 0"), "preprocessing#transforms#4 cannot be read"),
        ({"inferer": {"_target_": "SaliencyInferer"}}, "inferer has 'SaliencyInferer', which is not supported"),
        ({"inferer": {"_target_": "SlidingWindowInferer", "roi_size": [1, 2]}}, "inferer cannot be read"),
        ({"metadata": None}, "metadata.json, network_data_format#inputs#image"),
        ({"metadata": {}}, "metadata.json, network_data_format#inputs#image"),
        (
            {"metadata": {"network_data_format": {"inputs": {"image": {"num_channels": 1, "spatial_shape": [8, 8]}}}}},
            "has 2 dimensions: bundles are for volumes",
        ),
    ],
)
def test_what_is_not_supported_is_one_line_that_names_the_key(make, changes, words):
    folder = make(**changes)
    with pytest.raises(BundleError, match=words) as caught:
        read_bundle(folder).network(1, 2, 3)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)


def test_a_folder_that_is_no_bundle_is_named(tmp_path):
    with pytest.raises(BundleError, match=r"configs/inference.json is missing"):
        read_bundle(tmp_path)
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "inference.json").write_text("{")
    with pytest.raises(BundleError, match=r"inference.json cannot be read"):
        read_bundle(tmp_path)
