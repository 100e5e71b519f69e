-- A listing of what is current reads nothing but this.
create index s3_versions_current on s3_versions (bucket, key, marker, size, etag, modified, id, shown) where latest = 1;
