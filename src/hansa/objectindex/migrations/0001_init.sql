-- The object index. Keys are bytes, so that their order is that of UTF-8. Whatever only answers need stands in `facts`;
-- `shown` is that part of it which listings need, alike for most objects.

create table s3_versions (
  ord integer primary key autoincrement,
  bucket text not null, key blob not null, id text not null,
  latest integer not null, marker integer not null,
  size integer not null, etag text not null, modified real not null,
  shown text not null, facts text not null,
  ref integer -- of the bytes that lie inline, where the object is one piece
);
create unique index s3_versions_by_id on s3_versions (bucket, key, id);
create index s3_versions_in_order on s3_versions (bucket, key, ord desc);

-- Bytes of small objects and parts, apart from what listings walk over.
create table s3_inline (
  ref integer primary key,
  body blob not null
);

-- Every blob that is stored and known: in use, or garbage since then.
create table s3_blobs (
  blob_id text primary key,
  since real
);
create index s3_garbage on s3_blobs (since) where since is not null;

-- What buckets ('b:' and the uid) and projects ('p:' and theirs) hold, as a sum over slots.
create table s3_held (
  owner text not null, slot integer not null,
  bytes integer not null, versions integer not null, current_keys integer not null,
  upload_bytes integer not null, uploads integer not null,
  primary key (owner, slot)
);

create table s3_uploads (
  id text primary key,
  bucket text not null, key blob not null,
  started real not null,
  facts text not null
);
create index s3_uploads_in_order on s3_uploads (bucket, key, started, id);

create table s3_parts (
  upload text not null, number integer not null,
  size integer not null,
  modified real not null,
  piece text not null,
  primary key (upload, number)
);

-- What became of uploads, for a while.
create table s3_completed (
  bucket text not null, upload text not null,
  key blob not null, id text not null,
  at real not null,
  primary key (bucket, upload)
);
create index s3_completed_in_time on s3_completed (at);

create table s3_closed (
  bucket text primary key,
  at real not null
);

create table s3_events (
  number integer primary key autoincrement,
  what text not null,
  bucket text not null, key blob not null, id text not null,
  at real not null
);
create index s3_events_of on s3_events (what, number);

create table s3_leases (
  name text primary key,
  holder text not null,
  until real not null
);

create table s3_notes (
  name text primary key,
  value text not null
);
