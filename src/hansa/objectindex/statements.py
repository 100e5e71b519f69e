"""Every statement of the object index, in the SQL that SQLite and PostgreSQL share. Parameters are `:name`."""

from __future__ import annotations

# -- versions -----------------------------------------------------------------------------------

COLUMNS = "key, ord, size, etag, modified, id, shown, latest, marker, facts, bucket"
SHOWN = "key, ord, size, etag, modified, id, shown"
_KEY = "bucket = :bucket and key = :key"

LATEST = f"select {COLUMNS} from s3_versions where {_KEY} order by ord desc limit 1"
BY_ID = f"select {COLUMNS} from s3_versions where {_KEY} and id = :id"
_WITH_BODY = f"select {COLUMNS}, (select body from s3_inline i where i.ref = v.ref) from s3_versions v where {_KEY}"
READ_LATEST = f"{_WITH_BODY} order by ord desc limit 1"
READ_BY_ID = f"{_WITH_BODY} and id = :id"
BEFORE = f"select {COLUMNS} from s3_versions where {_KEY} and ord < :ord order by ord desc limit 1"
ORDER_OF = f"select ord from s3_versions where {_KEY} and id = :id"

INSERT = """
insert into s3_versions (bucket, key, id, latest, marker, size, etag, modified, shown, facts, ref)
values (:bucket, :key, :id, 1, :marker, :size, :etag, :modified, :shown, :facts, :ref) returning ord"""
SET_LATEST = "update s3_versions set latest = :latest where ord = :ord"
SET_FACTS = "update s3_versions set facts = :facts, shown = :shown where ord = :ord"
DELETE = "delete from s3_versions where ord = :ord"

LIST = f"""
select {SHOWN} from s3_versions
 where bucket = :bucket and key >= :low and key < :high and latest = 1 and marker = 0 order by key limit :limit"""
VERSIONS = f"""
select {SHOWN}, latest, marker from s3_versions
 where bucket = :bucket and key >= :low and key < :high order by key, ord desc limit :limit"""
VERSIONS_OF = f"""
select {SHOWN}, latest, marker from s3_versions
 where {_KEY} and ord < :ord order by ord desc limit :limit"""
WALK = f"""
select {COLUMNS} from s3_versions where (bucket, key) > (:bucket, :key) order by bucket, key, ord desc limit :limit"""
WALK_KEY = f"select {COLUMNS} from s3_versions where {_KEY} and ord < :ord order by ord desc limit :limit"

# -- bytes --------------------------------------------------------------------------------------

INLINE = "select body from s3_inline where ref = :ref"
INSERT_INLINE = "insert into s3_inline (ref, body) values (:ref, :body)"
DELETE_INLINE = "delete from s3_inline where ref = :ref"

# A blob that was given up and is published after all is in use.
USE_BLOB = """
insert into s3_blobs (blob_id, since) values (:blob, null) on conflict (blob_id) do update set since = null"""
DISCARD_BLOB = "insert into s3_blobs (blob_id, since) values (:blob, :since) on conflict (blob_id) do nothing"
SET_GARBAGE = "update s3_blobs set since = :since where blob_id = :blob"
GARBAGE = "select blob_id, since from s3_blobs where since < :before order by since limit :limit"
REAPED = "delete from s3_blobs where blob_id = :blob and since is not null"
KNOWN = "select blob_id from s3_blobs where blob_id in (select value from json_each(:blobs))"
BLOBS = "select blob_id from s3_blobs where blob_id > :after and since is null order by blob_id limit :limit"

# -- counts -------------------------------------------------------------------------------------

_SUMS = ", ".join(
    f"coalesce(sum({name}), 0)" for name in ("bytes", "versions", "current_keys", "upload_bytes", "uploads")
)
HELD = f"select {_SUMS} from s3_held where owner = :owner"
HELD_TOGETHER = f"select {_SUMS} from s3_held where owner in (select value from json_each(:owners))"
# A bucket's row before its project's, always: two that count wait for one another, never both for each.
COUNT = """
insert into s3_held (owner, slot, bytes, versions, current_keys, upload_bytes, uploads)
values (:bucket, :slot, :bytes, :versions, :current, :upload_bytes, :uploads),
       (:project, :slot, :bytes, :versions, :current, :upload_bytes, :uploads)
on conflict (owner, slot) do update set
  bytes = s3_held.bytes + excluded.bytes, versions = s3_held.versions + excluded.versions,
  current_keys = s3_held.current_keys + excluded.current_keys,
  upload_bytes = s3_held.upload_bytes + excluded.upload_bytes, uploads = s3_held.uploads + excluded.uploads"""
DROP_COUNTS = "delete from s3_held where owner = :owner"

# -- uploads ------------------------------------------------------------------------------------

_UPLOAD = "key, started, id, facts, bucket"
INSERT_UPLOAD = """
insert into s3_uploads (id, bucket, key, started, facts) values (:id, :bucket, :key, :started, :facts)"""
UPLOAD = f"select {_UPLOAD} from s3_uploads where id = :id and bucket = :bucket"
UPLOADS = f"""
select {_UPLOAD} from s3_uploads
 where bucket = :bucket and key >= :low and key < :high order by key, started, id limit :limit"""
UPLOADS_OF = f"""
select {_UPLOAD} from s3_uploads
 where {_KEY} and (started > :started or (started = :started and id > :id)) order by started, id limit :limit"""
DELETE_UPLOAD = "delete from s3_uploads where id = :id"

PART = "select piece, modified, size from s3_parts where upload = :upload and number = :number"
PARTS = """
select piece, modified, size from s3_parts where upload = :upload and number > :after order by number limit :limit"""
ALL_PARTS = "select piece, modified, size from s3_parts where upload = :upload order by number"
SET_PART = """
insert into s3_parts (upload, number, size, modified, piece) values (:upload, :number, :size, :modified, :piece)
on conflict (upload, number) do update set size = :size, modified = :modified, piece = :piece"""
DELETE_PARTS = "delete from s3_parts where upload = :upload"

INSERT_COMPLETED = """
insert into s3_completed (bucket, upload, key, id, at) values (:bucket, :upload, :key, :id, :at)"""
COMPLETED = "select key, id from s3_completed where bucket = :bucket and upload = :upload and at > :since"
DROP_COMPLETED = "delete from s3_completed where at <= :since"

# -- buckets ------------------------------------------------------------------------------------

CLOSED = "select at from s3_closed where bucket = :bucket"
CLOSE = "insert into s3_closed (bucket, at) values (:bucket, :at) on conflict (bucket) do nothing"
REOPEN = "delete from s3_closed where bucket = :bucket"
ANYTHING = """
select 1 from (select ord from s3_versions where bucket = :bucket limit 1) as v
union all select 1 from (select id from s3_uploads where bucket = :bucket limit 1) as u"""

# -- keeping house ------------------------------------------------------------------------------

INSERT_EVENT = """
insert into s3_events (what, bucket, key, id, at) values (:what, :bucket, :key, :id, :at)"""
EVENTS = """
select number, bucket, key, id, what, at from s3_events
 where what = :what and number > :after order by number limit :limit"""
DONE = "delete from s3_events where number = :number"

LEASE = """
insert into s3_leases (name, holder, until) values (:name, :holder, :until)
on conflict (name) do update set holder = :holder, until = :until
 where s3_leases.holder = :holder or s3_leases.until <= :now
returning holder"""
NOTE = "select value from s3_notes where name = :name"
SET_NOTE = """
insert into s3_notes (name, value) values (:name, :value) on conflict (name) do update set value = :value"""
