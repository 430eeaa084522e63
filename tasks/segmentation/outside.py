"""Networks of installed packages.

A package names its own under the entry-point group ``active_learning.networks``: a function
``(in_channels, out_channels, spatial_dims) -> network``, which gives a
:class:`tasks.segmentation.whole.WholeNetwork`, or any module that is a
:class:`tasks.segmentation.networks.StochasticNetwork` and has a ``divisor``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from importlib.metadata import entry_points
from typing import Any

import torch

from tasks.common.files import described

GROUP = "active_learning.networks"
MakeNetwork = Callable[[int, int, int], Any]


class NetworkError(ValueError):
    """A network that cannot be used; the message names it and says why, in one line."""


@cache
def registered() -> Mapping[str, MakeNetwork]:
    """Name of the entry point -> function that makes the network; looked for once in a process.

    Raises:
        NetworkError: one cannot be imported, is no function, or has the name of another.
    """
    found: dict[str, MakeNetwork] = dict(_PROVIDED)
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: (entry.name, entry.value)):
        words = f"network entry point {entry.name} = {entry.value}"
        if entry.name in found or entry.name in RESERVED:
            raise NetworkError(f"{words}: there is a network {entry.name} already")
        try:
            make = entry.load()
        except Exception as error:  # it is somebody else's code
            raise NetworkError(f"{words} cannot be imported: {described(error)}") from error
        if not callable(make):
            raise NetworkError(f"{words} must be a function, got {make!r}")
        found[entry.name] = make
    return found


BUNDLE = "bundle"
"""Name of the network of the MONAI bundle that the server was started with."""
RESERVED = ("unet", "unet_resnet34", "small", BUNDLE)
"""Names of our own."""
_PROVIDED: dict[str, MakeNetwork] = {}


def provide(name: str, make: MakeNetwork) -> None:
    """Add a network that no package names, for this process.

    Args:
        name: one of :data:`RESERVED`.
        make: as those of packages.
    """
    _PROVIDED[name] = make
    registered.cache_clear()
    divisor_of.cache_clear()


def names(own: tuple[str, ...]) -> tuple[str, ...]:
    """Names of the networks that a kind of work has: its own, then those of packages."""
    return (*own, *registered())


def lacks(name: str) -> str:
    """Why a network cannot be made, for people; empty if its package is installed, or its bundle given."""
    if name == BUNDLE and name not in registered():
        return "its network is a bundle's: start with --conf bundle FOLDER"
    return "" if name in registered() else f"there is no network {name}: the package that has it is not installed"


def make(name: str, in_channels: int, out_channels: int, spatial_dims: int) -> Any:
    """A network of a package, with random weights.

    Raises:
        NetworkError: there is none of this name, or it cannot be made.
    """
    if problem := lacks(name):
        raise NetworkError(problem)
    try:
        return registered()[name](in_channels, out_channels, spatial_dims)
    except Exception as error:  # it is somebody else's code
        raise NetworkError(f"network {name} cannot be made: {described(error)}") from error


@cache
def divisor_of(name: str, spatial_dims: int) -> int:
    """What every side of an input of a package's network must be a multiple of."""
    with torch.random.fork_rng(devices=[]):
        return int(make(name, 1, 2, spatial_dims).divisor)


def check_network(name: str, in_channels: int, out_channels: int, spatial_dims: int) -> None:
    """Try a package's network on a small input: shapes, embedding and stochastic passes.

    Raises:
        NetworkError: it cannot be used for these channels, classes and dimensions.
    """
    with torch.random.fork_rng(devices=[]):
        network = make(name, in_channels, out_channels, spatial_dims)
        try:
            side = 2 * int(network.divisor)
            shape = (side,) * spatial_dims
            with torch.no_grad():
                features, embedding = network.eval().features(torch.rand(2, in_channels, *shape))
                outputs = {
                    "head": (network.head(features), (2, out_channels, *shape)),
                    "sample_head": (
                        network.sample_head(features, 3, torch.Generator().manual_seed(0)),
                        (3, out_channels, *shape),
                    ),
                }
        except Exception as error:  # it is somebody else's code
            raise NetworkError(f"network {name} does not work: {described(error)}") from error
    for method, (found, expected) in outputs.items():
        if tuple(found.shape) != expected:
            raise NetworkError(f"network {name}: {method} must give {expected}, got {tuple(found.shape)}")
    if embedding.ndim != 2 or len(embedding) != 2:
        raise NetworkError(f"network {name}: the embedding must be [batch, features], got {tuple(embedding.shape)}")
