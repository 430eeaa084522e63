"""A MONAI bundle as a start: its network, its weights and its preprocessing, for volumes.

Read are ``configs/inference.json`` (``network_def``, ``preprocessing``, ``inferer``), ``configs/metadata.json`` and
``models/model.pt``. A bundle's configuration is a program: MONAI evaluates its expressions. So it is read where the
server is started, from a folder that its operator names, and never by a request.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigComponent, ConfigParser
from torch import nn

from tasks.common.files import described
from tasks.geometry.volumes import INTENSITY
from tasks.segmentation.outside import BUNDLE
from tasks.segmentation.whole import WholeNetwork
from tasks.volume_segmentation.presets import Preset

_READS = ("LoadImage", "EnsureChannelFirst", "EnsureType", "ToTensor", "CastToType", "AsChannelFirst", "AddChannel")
"""Transforms that our own reading does already."""
_DIVISORS = (1, 2, 4, 8, 16, 32, 64)


class BundleError(ValueError):
    """A bundle that cannot be used; the message names its folder and the key."""


@dataclass(frozen=True)
class Bundle:
    """What is taken of a bundle.

    Attributes:
        folder: of the bundle.
        in_channels: of its network.
        spacing: voxel sizes in mm along x, y and z; None keeps the image's own.
        intensity: name and arguments of the intensity transforms, in order.
        roi: window in voxels; None leaves it to the preset.
        overlap: of windows; None leaves it to the preset.
        weights: file, None if there is none.
    """

    folder: Path
    in_channels: int
    spacing: tuple[float, float, float] | None
    intensity: tuple[tuple[str, Mapping[str, Any]], ...]
    roi: tuple[int, int, int] | None
    overlap: float | None
    weights: Path | None
    _found: dict[tuple[int, int], tuple[int, str]] = field(default_factory=dict, repr=False, compare=False)

    def fitted(self, preset: Preset) -> Preset:
        """A preset with the bundle's network and window."""
        if self.roi is not None:
            preset = replace(preset, roi_size="x".join(map(str, self.roi)))
        if self.overlap is not None:
            preset = replace(preset, overlap=self.overlap)
        return preset.with_network(BUNDLE)

    def network(self, in_channels: int, out_channels: int, spatial_dims: int) -> WholeNetwork:
        """The bundle's network with random weights; its classes are ours, whatever the bundle's were.

        Raises:
            BundleError: it cannot be made for these.
        """
        if spatial_dims != 3:
            raise BundleError(f"bundle {self.folder}: bundles are for volumes")
        parser, key = _parser(self.folder), "network_def"
        wanted = {"in_channels": in_channels, "out_channels": out_channels}
        for name, value in wanted.items():
            if name in parser[key]:
                parser[f"{key}#{name}"] = value
        try:
            module = parser.get_parsed_content(key)
        except Exception as error:  # the bundle's own code
            raise _error(self.folder, key, f"cannot be made: {described(error)}") from error
        if not isinstance(module, nn.Module):
            raise _error(self.folder, key, f"is no network but {type(module).__name__}")
        if (in_channels, out_channels) not in self._found:  # the same for every network that is made of it
            divisor = _divisor(self.folder, module, in_channels, out_channels)
            self._found[in_channels, out_channels] = divisor, _deepest(module, in_channels, 2 * divisor)
        divisor, embed = self._found[in_channels, out_channels]
        return WholeNetwork(module, embed, divisor)


def read_bundle(folder: Path) -> Bundle:
    """Read what is taken of a bundle.

    Raises:
        BundleError: a file is missing or cannot be read, or the bundle needs what is not supported.
    """
    parser = _parser(folder)
    try:
        metadata = json.loads((folder / "configs" / "metadata.json").read_bytes())
        inputs = metadata["network_data_format"]["inputs"]["image"]
        in_channels, dims = int(inputs["num_channels"]), len(inputs["spatial_shape"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        key = "network_data_format#inputs#image (num_channels, spatial_shape)"
        raise _error(folder, f"metadata.json, {key}", f"cannot be read: {described(error)}") from error
    if dims != 3:
        raise _error(folder, "metadata.json, spatial_shape", f"has {dims} dimensions: bundles are for volumes")
    spacing, intensity = _preprocessing(folder, parser)
    roi, overlap = _windows(folder, parser)
    weights = folder / "models" / "model.pt"
    return Bundle(folder, in_channels, spacing, intensity, roi, overlap, weights if weights.is_file() else None)


def _parser(folder: Path) -> ConfigParser:
    files = [folder / "configs" / f"inference.{ending}" for ending in ("json", "yaml")]
    file = next((path for path in files if path.is_file()), None)
    if file is None:
        raise _error(folder, "configs/inference.json", "is missing")
    parser = ConfigParser()
    try:
        parser.read_config(str(file))
        if (metadata := folder / "configs" / "metadata.json").is_file():
            parser.read_meta(str(metadata))
        parser["bundle_root"] = str(folder)
    except Exception as error:  # JSON, YAML, or what MONAI makes of them
        raise _error(folder, file.name, f"cannot be read: {described(error)}") from error
    if "network_def" not in parser:
        raise _error(folder, "network_def", "is missing")
    if not isinstance(parser["network_def"], Mapping):
        raise _error(folder, "network_def", "must be an object with _target_")
    return parser


def _preprocessing(
    folder: Path, parser: ConfigParser
) -> tuple[tuple[float, float, float] | None, tuple[tuple[str, Mapping[str, Any]], ...]]:
    key = "preprocessing"
    if key not in parser:
        raise _error(folder, key, "is missing")
    steps = parser[key]
    if isinstance(steps, Mapping):
        key, steps = f"{key}#transforms", steps.get("transforms")
    if not isinstance(steps, Sequence) or isinstance(steps, str):
        raise _error(folder, key, "must be a list of transforms")
    spacing: tuple[float, float, float] | None = None
    intensity: list[tuple[str, Mapping[str, Any]]] = []
    for number, step in enumerate(steps):
        place = f"{key}#{number}"
        target = str(step.get("_target_", "")) if isinstance(step, Mapping) else ""
        name = target.rpartition(".")[2].removesuffix("ict").removesuffix("D").removesuffix("d")
        try:
            arguments = {
                each: parser.get_parsed_content(f"{place}#{each}") for each in step if not each.startswith("_")
            }
            disabled = "_disabled_" in step and parser.get_parsed_content(f"{place}#_disabled_")
        except Exception as error:  # the bundle's own expressions
            raise _error(folder, place, f"cannot be read: {described(error)}") from error
        arguments.pop("keys", None)
        if name in _READS or ConfigComponent({"_target_": target, "_disabled_": disabled}).is_disabled():
            continue
        if name == "Orientation":
            if arguments.get("axcodes") != "RAS":
                raise _error(folder, place, f"needs axcodes {arguments.get('axcodes')!r}; RAS is supported")
        elif name == "Spacing":
            sides = arguments.get("pixdim")
            if not isinstance(sides, Sequence) or len(sides) != 3 or min(sides) <= 0:
                raise _error(folder, place, f"needs pixdim {sides!r}; three sizes in mm are supported")
            spacing = (float(sides[0]), float(sides[1]), float(sides[2]))
        elif name in INTENSITY:
            intensity.append((name, _plain(folder, place, arguments)))
        else:
            raise _error(folder, place, f"has {target or step!r}, which is not supported")
    return spacing, tuple(intensity)


def _plain(folder: Path, place: str, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
    """Arguments as a checkpoint can keep them."""
    try:
        return dict(json.loads(json.dumps(dict(arguments))))
    except (TypeError, ValueError) as error:
        raise _error(folder, place, f"has an argument that cannot be kept: {described(error)}") from error


def _windows(folder: Path, parser: ConfigParser) -> tuple[tuple[int, int, int] | None, float | None]:
    key = "inferer"
    if key not in parser:
        return None, None
    if not isinstance(parser[key], Mapping):
        raise _error(folder, key, "must be an object with _target_")
    target = str(parser[key].get("_target_", "")).rpartition(".")[2]
    if target == "SimpleInferer":
        return None, None
    if target != "SlidingWindowInferer":
        raise _error(folder, key, f"has {target!r}, which is not supported")
    try:
        roi = parser.get_parsed_content(f"{key}#roi_size")
        overlap = parser.get_parsed_content(f"{key}#overlap") if "overlap" in parser[key] else None
        sides = tuple(int(side) for side in ([roi] * 3 if isinstance(roi, int) else roi))
        if len(sides) != 3 or min(sides) < 1:
            raise ValueError(f"roi_size {roi!r}")
        return (sides[0], sides[1], sides[2]), None if overlap is None else float(overlap)
    except Exception as error:  # the bundle's own expressions
        raise _error(folder, key, f"cannot be read: {described(error)}") from error


@torch.no_grad()
def _divisor(folder: Path, module: nn.Module, in_channels: int, out_channels: int) -> int:
    """The smallest power of two whose threefold is a side that the network can take."""
    module.eval()
    words = ""
    for divisor in _DIVISORS:
        side = 3 * divisor
        try:
            found = module(torch.zeros(1, in_channels, side, side, side))
            found = found[0] if isinstance(found, (list, tuple)) else found
            if tuple(found.shape[-4:]) == (out_channels, side, side, side):
                return divisor
            words = f"gives {tuple(found.shape)} for a volume of {side}^3"
        except (RuntimeError, ValueError, IndexError, AssertionError) as error:
            words = described(error)
    raise _error(folder, "network_def", f"does not work for {in_channels} channels and {out_channels} classes: {words}")


@torch.no_grad()
def _deepest(module: nn.Module, in_channels: int, side: int) -> str:
    """The layer whose output is smallest in space; of several the one with most channels, then the first."""
    sizes: dict[str, tuple[int, int]] = {}
    hooks = []

    def keep(name: str) -> Any:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            if isinstance(output, torch.Tensor) and output.ndim == 5:
                sizes.setdefault(name, (output[0, 0].numel(), -output.shape[1]))

        return hook

    for name, layer in module.named_modules():
        if name:
            hooks.append(layer.register_forward_hook(keep(name)))
    try:
        module(torch.zeros(1, in_channels, side, side, side))
    finally:
        for hook in hooks:
            hook.remove()
    return min(sizes, key=lambda name: sizes[name])


def _error(folder: Path, key: str, words: str) -> BundleError:
    return BundleError(f"bundle {folder}: {key} {words}")
