"""The store in line with the datastore: what is there, what is labelled, and a line of history for every change, once.

The datastore is the truth. It names every final label it stores, and the store remembers the name of the label that
its history has a line of. So a change may be told twice, late, or after a kill, and is noted once.
"""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, cast

import sqlalchemy as sa
from sqlalchemy import orm

from tasks.rounds.scored_pool import waiting
from tasks.store.revisions import note_labels, touch_labels
from tasks.store.tables import LABELLED, Event, Image, Lease, Round, RoundImage, Skip

logger = logging.getLogger(__name__)

LABEL_REMOVED = "label_removed"
IMAGE_REMOVED = "image_removed"
_CHUNK = 5000
"""Values in one query."""


_NAMES: sa.BindParameter[Any] = sa.bindparam("names", expanding=True)
# Built once: putting such queries together takes longer than the database takes to answer them.
_KNOWN = sa.select(
    *(Image.image_id, Image.labelled, Image.present, Image.reopened),
    *(Image.label_ref, Image.label_stamp),
).where(Image.image_id.in_(_NAMES))
_LEASES = sa.select(Lease).where(Lease.image_id.in_(_NAMES))
_END_LEASES = sa.delete(cast(sa.Table, Lease.__table__)).where(Lease.image_id.in_(_NAMES))
_END_SKIPS = sa.delete(cast(sa.Table, Skip.__table__)).where(Skip.image_id.in_(_NAMES))


@dataclass(frozen=True)
class Label:
    """A final label as the datastore has it.

    Attributes:
        ref: differs for every label that is stored.
        client_id: the annotator, empty if unknown.
        details: anything worth keeping in the history.
        stamp: size and time of its file, None if unknown.
    """

    ref: str
    client_id: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)
    stamp: str | None = None


@dataclass(frozen=True)
class ImageState:
    """An image as the datastore has it.

    Attributes:
        image_id: id in the datastore.
        present: whether the image is there.
        label: its final label, None without one.
        client_id: who removed the image or its label, if that is what happened.
        found_anew: the label's name was made up again after the index was lost: it may be one that is known.
    """

    image_id: str
    present: bool = True
    label: Label | None = None
    client_id: str = ""
    found_anew: bool = False


@dataclass
class Noted:
    """What came of it.

    Attributes:
        annotators: image that has a new label -> its annotator.
        gone: images that can no longer be served.
        taken_back: image -> name of a label that was taken back and is still in the datastore.
    """

    annotators: dict[str, str] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)
    taken_back: dict[str, str] = field(default_factory=dict)


def reconcile(session: orm.Session, time: dt.datetime, states: Sequence[ImageState]) -> Noted:
    """Note what has changed; part of a writing transaction.

    Args:
        session: a writing transaction.
        time: when it is noted, UTC.
        states: images as the datastore told of them, in that order.
    """
    noted = Noted()
    batch: dict[str, ImageState] = {}
    for state in states:
        if state.image_id in batch:
            _Batch(session, time, batch, noted).note()
            batch = {}
        batch[state.image_id] = state
    _Batch(session, time, batch, noted).note()
    return noted


class _Batch:
    """Changes of different images."""

    def __init__(self, session: orm.Session, time: dt.datetime, states: Mapping[str, ImageState], noted: Noted) -> None:
        self.session = session
        self.time = time
        self.states = states
        self.noted = noted

    def note(self) -> None:
        session = self.session
        known: dict[str, sa.Row[Any]] = {}
        for names in _chunks(self.states):
            found = session.execute(_KNOWN, {"names": names})
            known.update({row.image_id: row for row in found})
        new, changed = [], []
        given: dict[str, Label] = {}
        removed: list[str] = []
        gone: list[str] = []
        moved: list[str] = []
        for name, state in self.states.items():
            row = known.get(name)
            if not state.present:
                if row is not None and row.present:
                    gone.append(name)
                    moved += [name] if _has_label(row) else []
                continue
            values = self._values(state, row)
            if row is None:
                new.append(values)
            elif any(getattr(row, key) != value for key, value in values.items()):
                changed.append(values)
            if state.label is not None and self._is_new(state, row):
                given[name] = state.label
            elif row is not None and _has_label(row) and state.label is None:
                removed.append(name)
            elif row is not None and _has_label(row) and not row.present:
                moved.append(name)
        if new:
            session.execute(sa.insert(Image), new)
        if changed:
            session.execute(sa.update(Image), changed)
        for names in _chunks(gone):
            session.execute(sa.update(Image).where(Image.image_id.in_(names)).values(present=False))
        if given:
            note_labels(session, {name: label.stamp for name, label in given.items()})
        if removed:
            note_labels(session, dict.fromkeys(removed), given=False)
        if moved:
            touch_labels(session, moved)
        events = [
            *self._given(given),
            *self._gone(removed, LABEL_REMOVED),
            *self._gone(gone, IMAGE_REMOVED),
        ]
        if events:  # in the order in which they were told
            place = {name: number for number, name in enumerate(self.states)}
            session.execute(sa.insert(Event), sorted(events, key=lambda event: place[event["image_id"]]))
        close_finished(session, given, self.time)

    def _is_new(self, state: ImageState, row: sa.Row[Any] | None) -> bool:
        """Whether the history has no line of the state's label yet."""
        assert state.label is not None
        if row is None or row.label_ref is None:
            return row is None or not _has_label(row)  # a store of an earlier version knows labels without their names
        return row.label_ref != state.label.ref and not (_has_label(row) and state.found_anew)

    def _values(self, state: ImageState, row: sa.Row[Any] | None) -> dict[str, Any]:
        """The image's row as it should be; what is noted with a new label comes with its revision."""
        label = state.label
        values = {
            "image_id": state.image_id,
            "present": True,
            "labelled": label is not None,
            "label_ref": None if label is None else label.ref,
            "label_stamp": None if label is None else label.stamp,
        }
        if row is None or label is None or row.labelled or self._is_new(state, row):
            return values
        if not row.reopened:
            self.noted.taken_back[state.image_id] = label.ref
        # A label that is taken back does not count, nor, until a new one comes, that of an image given out again.
        return {**values, "labelled": False}

    def _given(self, labels: Mapping[str, Label]) -> list[dict[str, Any]]:
        """Images have new labels: their leases and skips end; returns the lines of history."""
        leases = self._leases(labels)
        events = []
        for name, label in labels.items():
            lease = leases.get(name)
            annotator = label.client_id or (lease.client_id if lease else "")
            self.noted.annotators[name] = annotator
            self.noted.gone.add(name)
            if not _is_known(self.session, name, label.details):
                events.append(self._event(LABELLED, name, annotator, lease, label.details))
        for names in _chunks(labels):
            self.session.execute(_END_LEASES, {"names": names})
            self.session.execute(_END_SKIPS, {"names": names})
        return events

    def _gone(self, images: Sequence[str], event: str) -> list[dict[str, Any]]:
        """Images or their labels were removed; returns the lines. A lease on an image that is still there holds on."""
        leases = self._leases(images)
        if event == IMAGE_REMOVED:
            self.noted.gone.update(images)
            for names in _chunks(images):
                self.session.execute(_END_LEASES, {"names": names})
        return [self._event(event, name, self.states[name].client_id, leases.get(name), {}) for name in images]

    def _leases(self, images: Iterable[str]) -> dict[str, Lease]:
        found: dict[str, Lease] = {}
        for names in _chunks(images):
            found.update({row.image_id: row for row in self.session.scalars(_LEASES, {"names": names})})
        return found

    def _event(
        self, kind: str, image_id: str, client_id: str, lease: Lease | None, details: Mapping[str, Any]
    ) -> dict[str, Any]:
        return {
            "at": self.time,
            "event": kind,
            "image_id": image_id,
            "client_id": client_id,
            "round_id": lease.round_id if lease else None,
            "details": dict(details),
        }


def close_finished(session: orm.Session, images: Iterable[str], time: dt.datetime) -> None:
    """Close the open rounds of some images in which nothing is left to do."""
    session.flush()
    for names in _chunks(images):
        for row in session.scalars(_FINISHED, {"names": names}).all():
            row.closed_at, row.completed = time, True
            logger.info("round %d of %s is complete", row.number, row.strategy)


def remaining_images(round_id: int | orm.InstrumentedAttribute[int]) -> sa.ScalarSelect[int]:
    """The number of images of a round that can still be served, as part of a query."""
    place = orm.aliased(RoundImage)
    return (
        sa.select(sa.func.count())
        .select_from(place)
        .join(Image, Image.image_id == place.image_id)
        .where(place.round_id == round_id, *waiting())
        .correlate(Round)
        .scalar_subquery()
    )


_OF_IMAGES = Round.id.in_(sa.select(RoundImage.round_id).where(RoundImage.image_id.in_(_NAMES)))
_FINISHED = sa.select(Round).where(Round.closed_at.is_(None), _OF_IMAGES, remaining_images(Round.id) == 0)


def _has_label(row: sa.Row[Any]) -> bool:
    """Whether an image has a label, also one that is not the one that is wanted of it."""
    return bool(row.labelled or row.reopened)


def _is_known(session: orm.Session, image_id: str, details: Mapping[str, Any]) -> bool:
    """Whether this very answer has been taken before."""
    answer = details.get("answer_id")
    if not answer:
        return False
    same = sa.exists().where(Event.image_id == image_id, Event.details["answer_id"].as_string() == str(answer))
    return bool(session.scalar(sa.select(same)))


def _chunks(names: Iterable[str]) -> Iterator[list[str]]:
    rest = iter(names)
    while part := list(islice(rest, _CHUNK)):
        yield part
