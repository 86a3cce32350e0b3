"""What one layout stores of a write: the record it makes, and what stands in its way. Pure."""

from __future__ import annotations

import copy
import datetime as dt
from collections.abc import Iterator, Mapping

from proxy.layouts import ColumnKind, Layout
from proxy.model import CollectionSpec, FieldType, Record, Value, Write, WriteOp
from proxy.stores.fitting import constant_misfit, key_misfit, value_misfit, vector_misfit
from proxy.stores.patches import patched_fields


class Shape:
    """The records of one collection as one layout stores them, for stores without a catalogue."""

    def __init__(self, spec: CollectionSpec, layout: Layout) -> None:
        self.spec = spec
        self.layout = layout
        stored = layout.stored_fields()
        self.held = frozenset(
            f.name for f in spec.value_fields if f.name in stored and not f.generated
        )
        self.generated = tuple(
            f.name
            for f in spec.value_fields
            if f.name in stored and f.generated and f.type is FieldType.TIMESTAMP
        )
        self.rests = frozenset(column.rest for column in layout.columns if column.rest)
        self._required = tuple(
            f for f in spec.value_fields if f.required and f.name in self.held - self.rests
        )
        self.has_vector = any(column.kind is ColumnKind.VECTOR for column in layout.columns)

    def given(self, write: Write) -> dict[str, Value]:
        """Return the fields of a write that this layout stores, as they read back."""
        fields = {name: _settled(v) for name, v in write.fields.items() if name in self.held}
        for name in self.rests & fields.keys():
            fields[name] = {} if fields[name] is None else fields[name]
        return fields

    def new_record(self, write: Write, now: dt.datetime) -> Record:
        """Return what an insert stores; what the writer left out is null."""
        fields: dict[str, Value] = dict.fromkeys(self.held)
        fields.update({name: {} for name in self.rests & self.held})
        fields.update(self.layout.constants)
        fields = {name: value for name, value in fields.items() if name not in self.spec.key}
        fields.update(self.given(write))
        fields.update(dict.fromkeys(self.generated, now))
        vector = write.vector if self.has_vector else None
        return Record(collection=self.spec.name, key=write.key, fields=fields, vector=vector)

    def changed_record(
        self, stored: Record, changes: Mapping[str, Value], write: Write, now: dt.datetime
    ) -> Record:
        """Return what an update stores."""
        fields = {**stored.fields, **changes, **dict.fromkeys(self.generated, now)}
        replaces = write.set_vector and self.has_vector
        vector = write.vector if replaces else stored.vector
        return Record(collection=self.spec.name, key=stored.key, fields=fields, vector=vector)

    def written(self, write: Write, before: Record | None, now: dt.datetime) -> Record:
        """Return what an INSERT, UPSERT or PATCH stores over what was there."""
        if before is None:
            return self.new_record(write, now)
        changes = self.given(write)
        if write.op is WriteOp.PATCH:
            changes = patched_fields(self.spec, before.fields, changes)
        else:
            changes = {name: v for name, v in changes.items() if name not in write.keep}
        return self.changed_record(before, changes, write, now)

    def misfit(self, write: Write, store: str, *, whole: bool) -> str:
        """Say why the store refuses these values, "" if it does not.

        `whole`: they are to make a record of their own, so what is left out is null.
        """
        return next((why for why in self._problems(write, store, whole) if why), "")

    def _problems(self, write: Write, store: str, whole: bool) -> Iterator[str]:
        spec, constants = self.spec, self.layout.constants
        yield key_misfit(spec, self.layout, write.key, store)
        for name, part in zip(spec.key, write.key, strict=False):  # the length has been looked at
            yield value_misfit(spec.by_name[name], part)
        for name, value in write.fields.items():
            if name in self.held and not (value is None and name in self.rests):
                yield value_misfit(spec.by_name[name], value)
        for name, value in constants.items():
            if name in write.fields and name not in spec.key and write.fields[name] != value:
                yield constant_misfit(store, name, value, write.fields[name])
        if whole:
            for field in self._required:
                if write.fields.get(field.name) is None:
                    yield value_misfit(field, None)
        if whole or write.set_vector:
            yield vector_misfit(spec, write.vector)


def _settled(value: Value) -> Value:
    """Copy a value that its giver could still change."""
    if type(value) is list and all(type(item) is str for item in value):
        return value[:]  # a text never changes
    return copy.deepcopy(value) if isinstance(value, list | dict) else value
