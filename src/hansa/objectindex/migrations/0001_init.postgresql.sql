-- A listing of what is current reads nothing but this. Unique: a key has one latest version.
create unique index s3_versions_current on s3_versions (bucket, key)
  include (marker, size, etag, modified, id, shown) where latest = 1;
