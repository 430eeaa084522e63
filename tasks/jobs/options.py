"""Options that a request may give a job or an inference: known names, each checked before anything starts."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Annotated, Any

import torch
from monailabel.utils.others.generic import device_map
from pydantic import PlainValidator, TypeAdapter
from typing_extensions import TypedDict

from tasks.common.files import RESULT_ENDINGS
from tasks.common.values import LARGEST_SEED, Flag, Number, Text, Whole, between, choice, known, of_kind, one_of, shown
from tasks.datastore.rules import FINAL

ADDED_BY_CLIENTS = frozenset({"client_id", "model", "method", "gpus", "multi_gpu", "val_batch_size"})
"""What the viewers add to every job by themselves; it decides on nothing."""
_RESULT_TYPES = ("uint8", "uint16", "int16", "int32", "float32")
_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
_ZERO_IS_DEFAULT = ("timeout", "max_batch_size")


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
    there = [*device_map(), *(f"cuda:{number}" for number in range(torch.cuda.device_count())), "cpu", "cuda"]
    name: str = of_kind("device", value, str)
    one_of("device", name, list(dict.fromkeys(there)))
    return name


class _JobOptions(TypedDict, total=False):
    device: Annotated[str, PlainValidator(checked_device)]


class _TrainingOptions(_JobOptions, total=False):
    pretrained: Flag
    members: Annotated[Whole, between(1, 32)]
    seed: Annotated[Whole, between(0, LARGEST_SEED)]


class _InferenceOptions(_JobOptions, total=False):
    model: Text
    image: Text
    client_id: Text
    result_compress: Flag
    restore_label_idx: Flag
    save_label: Flag
    skip_writer: Flag
    result_extension: Annotated[Text, choice(*RESULT_ENDINGS)]
    result_dtype: Annotated[Text, choice(*_RESULT_TYPES)]
    logging: Annotated[Text, choice(*_LEVELS, *(level.lower() for level in _LEVELS))]
    label_tag: Text
    timeout: Annotated[Number, between(1, 3600)]


class _BatchOptions(_InferenceOptions, total=False):
    max_batch_size: Annotated[Whole, between(1, 10**9)]


_JOB, _TRAINING = TypeAdapter(_JobOptions), TypeAdapter(_TrainingOptions)
_INFERENCE, _BATCH = TypeAdapter(_InferenceOptions), TypeAdapter(_BatchOptions)


def _given(model: TypeAdapter[Any], options: Mapping[str, Any]) -> dict[str, Any]:
    checked = known(model, options)
    if not checked.get("device"):
        checked.pop("device", None)
    return checked


def training_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a training but its hyper-parameters: those of ``device``, ``pretrained``, ``members``, ``seed`` given.

    Raises:
        ValueError: a value that does not fit; the message names the option.
    """
    return _given(_TRAINING, options)


def scoring_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a scoring as they go to the job.

    Raises:
        ValueError: an unknown option, or a value that does not fit; the message names it.
    """
    for name in options:
        if name != "device":
            raise ValueError(f"unknown option {shown(name)}; known is device")
    return _given(_JOB, options)


def inference_options(options: Mapping[str, Any], tags: Collection[str]) -> dict[str, Any]:
    """Options of an inference that are known; others are dropped, since viewers send the settings of all models.

    Args:
        options: of a request.
        tags: tags that a model's result may be stored under.

    Raises:
        ValueError: a value that does not fit; the message names the option.
    """
    return _result_options(_INFERENCE, options, tags)


def _result_options(model: TypeAdapter[Any], options: Mapping[str, Any], tags: Collection[str]) -> dict[str, Any]:
    empty = {name for name, value in options.items() if value is None or value == ""}
    empty |= {name for name in _ZERO_IS_DEFAULT if not options.get(name)}
    checked = _given(model, {name: value for name, value in options.items() if name not in empty})
    if "label_tag" in checked:
        if checked["label_tag"] == FINAL:
            raise ValueError("label_tag: a model's result is no final label")
        one_of("label_tag", checked["label_tag"], sorted(tags))
    if checked.pop("skip_writer", False):
        raise ValueError("skip_writer: only whole results can be sent")
    return checked


def batch_options(options: Mapping[str, Any], tags: Collection[str]) -> dict[str, Any]:
    """Options of a batch inference that are known; others are dropped.

    Args:
        options: of a request.
        tags: see :func:`inference_options`.

    Raises:
        ValueError: a value that does not fit; the message names the option.
    """
    checked = _result_options(_BATCH, options, tags)
    for name in ("model", "image", "client_id", "label_tag", "save_label"):
        checked.pop(name, None)
    return checked
