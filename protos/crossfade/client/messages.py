"""Batch items and answers between messages and plain data."""

from __future__ import annotations

from typing import Final

from crossfade.client.errors import from_status
from crossfade.client.types import (
    BatchItem,
    Delete,
    Hit,
    Insert,
    ItemOutcome,
    Metric,
    Scoring,
    SearchResult,
    Update,
    WriteAck,
)
from crossfade.client.values import fill_key, fill_record, read_key, read_record, read_served
from crossfade.storage.v1 import storage_pb2 as pb

_METRICS: Final = {
    pb.METRIC_COSINE: Metric.COSINE,
    pb.METRIC_DOT: Metric.DOT,
    pb.METRIC_L2: Metric.L2,
}
_SCORINGS: Final = {
    pb.SCORING_UNSPECIFIED: Scoring.SIMILARITY,  # a proxy of before there were others
    pb.SCORING_SIMILARITY: Scoring.SIMILARITY,
    pb.SCORING_TS_RANK: Scoring.TS_RANK,
    pb.SCORING_BM25: Scoring.BM25,
    pb.SCORING_RECIPROCAL_RANK: Scoring.RECIPROCAL_RANK,
}


def order_term(term: str) -> pb.Order:
    """Return a sort term; "-name" is descending."""
    return pb.Order(field=term.removeprefix("-"), descending=term.startswith("-"))


def fill_item(target: pb.WriteItem, item: BatchItem) -> None:
    """Write one item of a batch into a message."""
    target.collection = item.collection
    if isinstance(item, Delete):
        target.delete.SetInParent()
        fill_key(target.delete, item.key)
    elif isinstance(item, Update):
        fill_record(target.update, item.key, item.fields, item.vector)
        target.update.clear_vector = item.clear_vector
    else:
        record = target.insert if isinstance(item, Insert) else target.upsert
        record.SetInParent()
        fill_record(record, item.key, item.fields, item.vector)


def read_ack(answer: pb.WriteResponse) -> WriteAck:
    """Return an acknowledgement."""
    return WriteAck(
        key=read_key(answer.key),
        existed=answer.existed,
        secondary_pending=answer.secondary_pending,
        record=read_record(answer.record) if answer.HasField("record") else None,
        replayed=answer.replayed,
    )


def read_outcome(outcome: pb.ItemOutcome) -> ItemOutcome:
    """Return what became of one item of a batch."""
    if outcome.HasField("written"):
        return ItemOutcome(ack=read_ack(outcome.written))
    error = outcome.error
    return ItemOutcome(error=from_status(error.code, error.message, error.details))


def read_found(answer: pb.SearchResponse) -> SearchResult:
    """Return what a search found."""
    served = read_served(answer.served_by)
    hits = [
        Hit(
            record=read_record(one.record, served),
            distance=one.distance,
            similarity=one.similarity,
        )
        for one in answer.hits
    ]
    return SearchResult(
        hits=hits,
        metric=_METRICS[answer.metric],
        indexed=answer.indexed,
        served_by=served,
        scoring=_SCORINGS[answer.scoring],
    )
