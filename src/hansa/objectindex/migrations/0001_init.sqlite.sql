-- A listing of what is current reads nothing but this, and walks over no marker.
create index s3_versions_current on s3_versions (bucket, key, size, etag, modified, id, shown, latest, marker)
  where latest = 1 and marker = 0;
