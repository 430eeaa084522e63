"""Options that a request may give a job or an inference: known names, each checked before anything starts."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from monailabel.utils.others.generic import device_map

from tasks.common.files import RESULT_ENDINGS
from tasks.common.values import of_kind, one_of, shown, within
from tasks.datastore.rules import FINAL

ADDED_BY_CLIENTS = frozenset({"client_id", "model", "method", "gpus", "multi_gpu", "val_batch_size"})
"""What the viewers add to every job by themselves; it decides on nothing."""
_RESULT_TYPES = ("uint8", "uint16", "int16", "int32", "float32")
_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
_LONGEST_SECONDS = 3600


def without_added(options: Mapping[str, Any], trainers: Collection[str] = ()) -> dict[str, Any]:
    """Options without what the viewers add by themselves.

    Args:
        options: of a request.
        trainers: names under which OHIF sends options of trainers.
    """
    return {name: value for name, value in options.items() if name not in ADDED_BY_CLIENTS and name not in trainers}


def means_default(value: Any, default: Any) -> bool:
    """Whether a value of a request stands for the default.

    3D Slicer shows 0, "" and null as an empty field, and sends an empty field back as 0 or "". So 0 or "" where the
    default is of another value or type, and null, mean the default; a script that really means 0 sends it as text.
    """
    empty = value is None or (value in ("", 0) and not isinstance(value, bool))
    return empty and (type(value) is not type(default) or value != default)


def checked_device(value: Any) -> str:
    """A device by its name for people, or by torch's; empty where the value stands for the default.

    Raises:
        ValueError: there is no such device.
    """
    value = value[0] if isinstance(value, list) and value else value
    if value in (None, "", 0) and not isinstance(value, bool):
        return ""
    known = [*device_map(), *(f"cuda:{number}" for number in range(torch.cuda.device_count())), "cpu", "cuda"]
    name: str = of_kind("device", value, str)
    one_of("device", name, list(dict.fromkeys(known)))
    return name


def scoring_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a scoring as they go to the job.

    Raises:
        ValueError: an unknown option, or a value that does not fit; the message names it.
    """
    for name in options:
        if name != "device":
            raise ValueError(f"unknown option {shown(name)}; known is device")
    device = checked_device(options.get("device"))
    return {"device": device} if device else {}


def inference_options(options: Mapping[str, Any], tags: Collection[str]) -> dict[str, Any]:
    """Options of an inference that are known; others are dropped, since viewers send the settings of all models.

    Args:
        options: of a request.
        tags: tags that a model's result may be stored under.

    Raises:
        ValueError: a value that does not fit; the message names the option.
    """
    given = {name: value for name, value in options.items() if value is not None and value != ""}
    checked: dict[str, Any] = {}
    for name in ("model", "image", "client_id"):
        if name in given:
            checked[name] = of_kind(name, given[name], str)
    for name in ("result_compress", "restore_label_idx", "save_label", "skip_writer"):
        if name in given:
            checked[name] = of_kind(name, given[name], bool)
    for name, allowed in _CHOICES.items():
        if name in given:
            checked[name] = of_kind(name, given[name], str)
            one_of(name, checked[name], allowed)
    if "label_tag" in given:
        checked["label_tag"] = of_kind("label_tag", given["label_tag"], str)
        if checked["label_tag"] == FINAL:
            raise ValueError("label_tag: a model's result is no final label")
        one_of("label_tag", checked["label_tag"], sorted(tags))
    if checked.pop("skip_writer", False):
        raise ValueError("skip_writer: only whole results can be sent")
    if given.get("timeout"):
        checked["timeout"] = of_kind("timeout", given["timeout"], float)
        within("timeout", checked["timeout"], 1, _LONGEST_SECONDS)
    if device := checked_device(given.get("device")):
        checked["device"] = device
    return checked


_CHOICES: Mapping[str, tuple[str, ...]] = {
    "result_extension": RESULT_ENDINGS,
    "result_dtype": _RESULT_TYPES,
    "logging": (*_LEVELS, *(level.lower() for level in _LEVELS)),
}


def batch_options(options: Mapping[str, Any], tags: Collection[str]) -> dict[str, Any]:
    """Options of a batch inference that are known; others are dropped.

    Args:
        options: of a request.
        tags: see :func:`inference_options`.

    Raises:
        ValueError: a value that does not fit; the message names the option.
    """
    checked = inference_options(options, tags)
    for name in ("model", "image", "client_id", "label_tag", "save_label"):
        checked.pop(name, None)
    if options.get("max_batch_size"):
        checked["max_batch_size"] = of_kind("max_batch_size", options["max_batch_size"], int)
        within("max_batch_size", checked["max_batch_size"], 1, 10**9)
    return checked
