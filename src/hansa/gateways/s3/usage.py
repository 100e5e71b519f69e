"""What a request counts as: for operators by operation and answer, for the tenant's usage by class and bytes.

Usage is the bucket's: whoever asks, its project is the one that holds it. What was refused, or failed by our own fault,
is nobody's usage.
"""

from __future__ import annotations

from collections import OrderedDict
from functools import lru_cache

from hansa.gateways.meter import Counted, Meter
from hansa.gateways.s3.directory import Directory
from hansa.gateways.s3.ports import BucketView
from hansa.kinds.iam import Project
from hansa.kinds.meters import S3_LISTS, S3_READS, S3_RECEIVED, S3_SENT, S3_WRITES
from hansa.kinds.storage import Bucket
from hansa.metrics import S3Metrics

BUCKETS_MAX = 1000  # that are remembered
READING = ("Get", "Head", "Preflight")
HOLDING = frozenset({
    "PutObject", "PostObject", "CopyObject", "UploadPart", "UploadPartCopy", "CompleteMultipartUpload",
    "AbortMultipartUpload", "DeleteObject", "DeleteObjects",
})  # fmt: skip


@lru_cache(maxsize=512)
def class_of(operation: str) -> str:
    """The meter of a request."""
    if operation.startswith("List"):
        return S3_LISTS.name
    return S3_READS.name if operation.startswith(READING) else S3_WRITES.name


class Counting:
    """`Meter` of the ports."""

    def __init__(self, meter: Meter, metrics: S3Metrics, directory: Directory) -> None:
        self._meter, self._metrics, self._directory = meter, metrics, directory
        self._known: OrderedDict[str, tuple[BucketView, Project | None, Counted]] = OrderedDict()

    def count(
        self, operation: str, status: int, *, bucket: BucketView | None, seconds: float, received: int, sent: int
    ) -> None:
        metrics = self._metrics
        metrics.s3_requests.add(operation, str(status))
        metrics.s3_request_s.observe(seconds, operation)
        if received:
            metrics.s3_bytes.add("received", amount=received)
        if sent:
            metrics.s3_bytes.add("sent", amount=sent)
        if bucket is None or status in (401, 403, 499) or status >= 500:
            return
        counts = {class_of(operation): 1, S3_RECEIVED.name: received, S3_SENT.name: sent}
        self._meter.add(self._whose(bucket), operation in HOLDING and status < 300, **counts)

    def touched(self, uid: str) -> None:
        """What a bucket holds has changed without a request: by its lifecycle, by replication."""
        bucket = self._directory.bucket_by_uid(uid)
        if bucket is not None:
            self._meter.add(self._whose(bucket), True)

    def _whose(self, bucket: BucketView) -> Counted:
        known, project = self._known.get(bucket.uid), self._directory.projects.get(bucket.project)
        if known is not None and known[0] is bucket and known[1] is project:
            return known[2]
        whose = Counted(
            Bucket.kind, bucket.name, bucket.uid, bucket.project, project.uid if project is not None else bucket.project,
            bucket.organization, bucket.region,
        )  # fmt: skip
        self._known[bucket.uid] = (bucket, project, whose)
        if len(self._known) > BUCKETS_MAX:
            self._known.popitem(last=False)
        return whose
