"""The ``--conf`` options of the apps, and how a wrong one stops the start."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NoReturn

from typing_extensions import Self

from apps.auth.origins import parse_host, parse_origin
from apps.upstream import COMMAND, JOB, program
from tasks.common.files import LONGEST_NAME, is_safe_tag, split_names
from tasks.datastore.folder import HISTORY
from tasks.dicom.series_filter import SeriesFilter
from tasks.geometry.sizes import MAX_PIXELS, MAX_VOXELS
from tasks.geometry.slices import IN_CHANNELS
from tasks.learning.pretrained import WeightsError
from tasks.learning.start_from import read_weights
from tasks.segmentation.outside import NetworkError, check_network, provide
from tasks.segmentation.outside import registered as networks
from tasks.volume_segmentation.bundle import BUNDLE, BundleError, read_bundle


class ConfigurationError(ValueError):
    """A ``--conf`` option that is unknown or has a wrong value; the message names it."""


@dataclass(frozen=True)
class Options:
    """The ``--conf`` options that every app has; an app with more of them subclasses this.

    Attributes:
        strategy: query strategy preselected in the viewers; empty is the app's default.
        batch_size: images per round.
        train_after: labels given, replaced or removed after which training starts; 0 is ``batch_size``.
        lease_minutes: how long an image is promised to one annotator.
        seed: makes every random choice reproducible.
        preset: hyper-parameters; empty is the best for this machine.
        labels: foreground label names, comma separated, value 1 first.
        relabel: take names that are added to the end of ``labels``; images labelled before are not annotated for them.
        group_by: column of ``labels.csv`` or regular expression on image ids; training validates on whole groups.
        store: SQLite file or SQLAlchemy URL; empty is a file beside the models.
        auto_train: start trainings in the background; scoring follows every training, whoever started it.
        tags: tags that labels may be saved under besides ``final`` and ``original``, comma separated.
        max_upload_mb: largest request that is taken, in MiB.
        hosts: names by which browsers reach the server besides the machine's own, such as a proxy's, comma separated.
        origins: other websites whose pages may use the server, such as ``https://viewer.example``, comma separated.
        start_from: file with weights that first trainings start from; what fits the network is taken.
        max_voxels: largest image that is read: voxels, or pixels of a picture times its channels.
        max_pixels: largest picture that is read, in pixels.
    """

    strategy: str = ""
    batch_size: int = 10
    train_after: int = 0
    lease_minutes: float = 60.0
    seed: int = 0
    preset: str = ""
    labels: tuple[str, ...] = ()
    relabel: bool = False
    group_by: str = ""
    store: str = ""
    auto_train: bool = True
    tags: tuple[str, ...] = ()
    max_upload_mb: int = 2048
    hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    start_from: str = ""
    max_voxels: int = MAX_VOXELS
    max_pixels: int = MAX_PIXELS

    @classmethod
    def parse(cls, conf: Mapping[str, str], **defaults: Any) -> Self:
        """Options from the text values of the command line.

        Args:
            conf: ``--conf`` pairs.
            **defaults: the app's own defaults.

        Raises:
            ConfigurationError: unknown option or wrong value.
        """
        known = {item.name: item for item in fields(cls)}
        for name in conf:
            if name not in known:
                raise ConfigurationError(f"unknown option {name!r}; known are {', '.join(known)}")
        values: dict[str, Any] = dict(defaults)
        for name, text in conf.items():
            kind = type(getattr(cls, name))
            try:
                values[name] = _CONVERT[kind](str(text))
            except ValueError as error:
                raise ConfigurationError(f"option {name} must be {_KINDS[kind]}, got {text!r}") from error
        options = cls(**values)
        for name, (low, high) in BOUNDS.items():
            if getattr(options, name) < low:
                raise ConfigurationError(f"option {name} must be at least {low}, got {getattr(options, name)}")
            if getattr(options, name) > high:
                raise ConfigurationError(f"option {name} must be at most {high}, got {getattr(options, name)}")
        if not options.lease_minutes > 0:
            raise ConfigurationError(f"option lease_minutes must be positive, got {options.lease_minutes}")
        for name, value in ((item.name, getattr(options, item.name)) for item in fields(cls)):
            if isinstance(value, str):
                _check_text(name, value)
            if isinstance(value, tuple) and name not in _ADDRESSES:
                _check_names(name, value)
        if not options.labels and "labels" in conf:
            raise ConfigurationError("option labels must name one label at least")
        for tag in options.tags:
            if not is_safe_tag(tag) or tag == HISTORY:
                raise ConfigurationError(
                    f"option tags: {tag!r} cannot be the name of a folder of labels: at most 64 ASCII letters, digits, "
                    f"'_' and '-', and not {HISTORY!r}"
                )
        if options.start_from:
            try:
                read_weights(options.start_from)
            except (WeightsError, OSError, ValueError) as error:
                raise ConfigurationError(f"option start_from: {error}") from error
        for name, parse in _ADDRESSES.items():
            try:
                for text in getattr(options, name):
                    parse(text)
            except ValueError as error:
                raise ConfigurationError(f"option {name}: {error}") from error
        return options


@dataclass(frozen=True)
class VolumeOptions(Options):
    """Options of ``volume_segmentation``.

    Attributes:
        channels: channel names, comma separated, the file in the studies root first; empty for single files. With an
            archive they name series of a study by their description.
        allow_empty: take labels without any segment.
        series: series of an archive that are images: modalities, then ``:`` and a pattern of the description.
        network: network of a package that is trained instead of the preset's; empty is the preset's.
        bundle: folder of a MONAI bundle whose network, weights and preprocessing are used; it is a program: trust it.
    """

    channels: tuple[str, ...] = ()
    allow_empty: bool = False
    series: str = "CT,MR"
    network: str = ""
    bundle: str = ""

    def __post_init__(self) -> None:
        """Raise :class:`ConfigurationError` if ``series`` cannot be understood, or the network cannot be used."""
        try:
            SeriesFilter.parse(self.series)
        except ValueError as error:
            raise ConfigurationError(f"option series: {error}") from error
        _check_network(self.network, max(1, len(self.channels)), len(self.labels) + 1, 3)
        if self.bundle and self.network:
            raise ConfigurationError("option bundle has a network of its own: leave out the option network")
        if self.bundle:
            try:
                bundle = read_bundle(Path(self.bundle))
                provide(BUNDLE, bundle.network)
                check_network(BUNDLE, bundle.in_channels, len(self.labels) + 1, 3)
            except (BundleError, NetworkError, OSError, ValueError) as error:
                raise ConfigurationError(f"option bundle: {error}") from error


@dataclass(frozen=True)
class ImageOptions(Options):
    """Options of ``image_classification``, and some of those of ``image_segmentation``.

    Attributes:
        weights: file with ImageNet weights of the preset's network; empty takes torchvision's where they can be had.
    """

    weights: str = ""

    def __post_init__(self) -> None:
        """Raise :class:`ConfigurationError` if there is no such file."""
        try:
            there = not self.weights or Path(self.weights).is_file()
        except (OSError, ValueError) as error:
            raise ConfigurationError(f"option weights: {error}") from error
        if not there:
            raise ConfigurationError(f"option weights: there is no file {self.weights}")


@dataclass(frozen=True)
class SliceOptions(ImageOptions):
    """Options of ``image_segmentation``.

    Attributes:
        network: network of a package that is trained instead of the preset's; empty is the preset's.
    """

    network: str = ""

    def __post_init__(self) -> None:
        """Raise :class:`ConfigurationError` if there are no such weights, or the network cannot be used."""
        super().__post_init__()
        _check_network(self.network, IN_CHANNELS, len(self.labels) + 1, 2)


def _check_network(name: str, in_channels: int, out_channels: int, spatial_dims: int) -> None:
    try:
        if name:
            check_network(name, in_channels, out_channels, spatial_dims)
    except NetworkError as error:
        raise ConfigurationError(f"option network: {error}; there are {', '.join(networks()) or 'none'}") from error


BOUNDS: dict[str, tuple[float, float]] = {
    "batch_size": (1, 1_000_000),
    "train_after": (0, 1_000_000_000),
    "seed": (0, 2**31 - 1),
    "max_upload_mb": (1, 1 << 20),
    "lease_minutes": (0, 10_000_000),
    "max_voxels": (1, 2**40),
    "max_pixels": (1, 2**40),
}
"""Option -> smallest and largest value that the rest of the program can work with."""


def _boolean(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError(text)
    return text.lower() == "true"


def _names(text: str) -> tuple[str, ...]:
    return tuple(split_names(text))


def _check_text(name: str, value: str) -> None:
    if not value.isprintable():  # also a lone half of a character, which cannot be written to any file
        raise ConfigurationError(f"option {name} has characters that cannot be printed: {value!r}")


def _check_names(name: str, names: tuple[str, ...]) -> None:
    if len(set(names)) != len(names) or not all(_is_name(part) for part in names):
        raise ConfigurationError(f"option {name} must be different names of letters, digits, '_', '-', got {names}")
    longest = max(names, key=len, default="")
    if len(longest) > LONGEST_NAME:
        raise ConfigurationError(f"option {name} has a name of more than {LONGEST_NAME} characters: {longest!r}")


def _is_name(part: str) -> bool:
    return part.replace("_", "").replace("-", "").replace(" ", "").isalnum()


_ADDRESSES: dict[str, Callable[[str], Any]] = {"hosts": parse_host, "origins": parse_origin}
"""Options that are lists of addresses, not of names."""
_CONVERT: dict[type, Callable[[str], Any]] = {int: int, float: float, str: str, bool: _boolean, tuple: _names}
_KINDS = {int: "a whole number", float: "a number", str: "text", bool: "true or false", tuple: "a list of names"}


def refuse(error: ConfigurationError) -> NoReturn:
    """Stop a starting server or job with one clear line; anywhere else, raise."""
    if program() in (COMMAND, JOB):
        print(f"error: {error}", file=sys.stderr, flush=True)
        os._exit(2)
    raise error
