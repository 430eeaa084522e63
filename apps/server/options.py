"""The ``--conf`` options of the apps, and how a wrong one stops the start."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, NoReturn

from pydantic import AfterValidator, PlainValidator, ValidationError
from pydantic.dataclasses import dataclass
from typing_extensions import Self

from apps.auth.origins import parse_host, parse_origin
from apps.upstream import COMMAND, JOB, program
from tasks.common.files import LONGEST_NAME, is_safe_tag, split_names
from tasks.common.values import LARGEST_SEED, Flag, Number, Text, Whole, between, checked_by, first_error
from tasks.datastore.folder import HISTORY
from tasks.dicom.series_filter import SeriesFilter
from tasks.geometry.sizes import MAX_PIXELS, MAX_VOXELS
from tasks.geometry.slices import IN_CHANNELS
from tasks.learning.start_from import read_weights
from tasks.segmentation.outside import BUNDLE, NetworkError, check_network, provide
from tasks.segmentation.outside import registered as networks
from tasks.volume_segmentation.bundle import BundleError, read_bundle


class ConfigurationError(ValueError):
    """A ``--conf`` option that is unknown or has a wrong value; the message names it."""


def _check_text(name: str, value: str) -> None:
    if not value.isprintable():  # also a lone half of a character, which cannot be written to any file
        raise ValueError(f"{name} has characters that cannot be printed: {value!r}")


def _check_names(name: str, names: tuple[str, ...]) -> None:
    if len(set(names)) != len(names) or not all(_is_name(part) for part in names):
        raise ValueError(f"{name} must be different names of letters, digits, '_', '-', got {names}")
    longest = max(names, key=len, default="")
    if len(longest) > LONGEST_NAME:
        raise ValueError(f"{name} has a name of more than {LONGEST_NAME} characters: {longest!r}")


def _is_name(part: str) -> bool:
    return part.replace("_", "").replace("-", "").replace(" ", "").isalnum()


def _check_labels(name: str, names: tuple[str, ...]) -> None:
    if not names:
        raise ValueError(f"{name} must name one label at least")


def _check_tags(name: str, tags: tuple[str, ...]) -> None:
    for tag in tags:
        if not is_safe_tag(tag) or tag == HISTORY:
            raise ValueError(
                f"{name}: {tag!r} cannot be the name of a folder of labels: at most 64 ASCII letters, digits, "
                f"'_' and '-', and not {HISTORY!r}"
            )


def _check_minutes(name: str, minutes: float) -> None:
    if not minutes > 0:
        raise ValueError(f"{name} must be positive, got {minutes}")


def _read_by(read: Callable[[Any], Any]) -> AfterValidator:
    def check(name: str, value: Any) -> None:
        try:
            if value:
                read(value)
        except (OSError, ValueError) as error:
            raise ValueError(f"{name}: {error}") from error

    return checked_by(check)


def _find(file: str) -> None:
    if not Path(file).is_file():
        raise ValueError(f"there is no file {file}")


def _split(value: str | tuple[str, ...]) -> tuple[str, ...]:
    return tuple(split_names(value)) if isinstance(value, str) else value


Line = Annotated[Text, checked_by(_check_text)]
"""Text of one line."""
List = Annotated[tuple[str, ...], PlainValidator(_split)]
"""Texts with commas between them."""
Names = Annotated[List, checked_by(_check_names)]


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

    strategy: Line = ""
    batch_size: Annotated[Whole, between(1, 1_000_000)] = 10
    train_after: Annotated[Whole, between(0, 1_000_000_000)] = 0
    lease_minutes: Annotated[Number, checked_by(_check_minutes), between(0, 10_000_000)] = 60.0
    seed: Annotated[Whole, between(0, LARGEST_SEED)] = 0
    preset: Line = ""
    labels: Annotated[Names, checked_by(_check_labels)] = ()
    relabel: Flag = False
    group_by: Line = ""
    store: Line = ""
    auto_train: Flag = True
    tags: Annotated[Names, checked_by(_check_tags)] = ()
    max_upload_mb: Annotated[Whole, between(1, 1 << 20)] = 2048
    hosts: Annotated[List, _read_by(lambda hosts: [parse_host(host) for host in hosts])] = ()
    origins: Annotated[List, _read_by(lambda origins: [parse_origin(origin) for origin in origins])] = ()
    start_from: Annotated[Line, _read_by(read_weights)] = ""
    max_voxels: Annotated[Whole, between(1, 2**40)] = MAX_VOXELS
    max_pixels: Annotated[Whole, between(1, 2**40)] = MAX_PIXELS

    @classmethod
    def parse(cls, conf: Mapping[str, str], **defaults: Any) -> Self:
        """Options from the text values of the command line.

        Args:
            conf: ``--conf`` pairs.
            **defaults: the app's own defaults.

        Raises:
            ConfigurationError: unknown option or wrong value.
        """
        known = [item.name for item in fields(cls)]
        for name in conf:
            if name not in known:
                raise ConfigurationError(f"unknown option {name!r}; known are {', '.join(known)}")
        try:
            return cls(**{**defaults, **conf})
        except ValidationError as error:
            reason = first_error(error)
            # Those of ``__post_init__`` are whole sentences.
            whole = isinstance(reason, ConfigurationError)
            raise reason if whole else ConfigurationError(f"option {reason}") from error


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

    channels: Names = ()
    allow_empty: Flag = False
    series: Line = "CT,MR"
    network: Line = ""
    bundle: Line = ""

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

    weights: Annotated[Line, _read_by(_find)] = ""


@dataclass(frozen=True)
class SliceOptions(ImageOptions):
    """Options of ``image_segmentation``.

    Attributes:
        network: network of a package that is trained instead of the preset's; empty is the preset's.
    """

    network: Line = ""

    def __post_init__(self) -> None:
        """Raise :class:`ConfigurationError` if the network cannot be used."""
        _check_network(self.network, IN_CHANNELS, len(self.labels) + 1, 2)


def _check_network(name: str, in_channels: int, out_channels: int, spatial_dims: int) -> None:
    try:
        if name:
            check_network(name, in_channels, out_channels, spatial_dims)
    except NetworkError as error:
        raise ConfigurationError(f"option network: {error}; there are {', '.join(networks()) or 'none'}") from error


def refuse(error: ConfigurationError) -> NoReturn:
    """Stop a starting server or job with one clear line; anywhere else, raise."""
    if program() in (COMMAND, JOB):
        print(f"error: {error}", file=sys.stderr, flush=True)
        os._exit(2)
    raise error
