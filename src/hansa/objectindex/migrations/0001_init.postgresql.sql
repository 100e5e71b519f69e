-- A listing of what is current reads nothing but this, and walks over no marker. Unique: a key has one latest version.
create unique index s3_versions_current on s3_versions (bucket, key)
  include (ord, size, etag, modified, id, shown) where latest = 1 and marker = 0;

-- What a project holds. With a lock: the sums stay as they are (`alone`), or change by small writes only, until the
-- transaction ends. The sums are read by a statement of their own, so that they are those of after the lock.
create function s3_room(
  project text, lock bigint, alone boolean,
  out bytes bigint, out versions bigint, out current_keys bigint, out upload_bytes bigint, out uploads bigint
) language plpgsql volatile as $$
begin
  if alone then
    perform pg_advisory_xact_lock(lock);
  elsif lock is not null then
    perform pg_advisory_xact_lock_shared(lock);
  end if;
  select coalesce(sum(h.bytes), 0), coalesce(sum(h.versions), 0), coalesce(sum(h.current_keys), 0),
         coalesce(sum(h.upload_bytes), 0), coalesce(sum(h.uploads), 0)
    into bytes, versions, current_keys, upload_bytes, uploads
    from s3_held h where h.owner = project;
end $$;

-- What there is before a version is made: see `Looked`.
create function s3_look(
  in_bucket text, in_key bytea, project text, lock bigint, alone boolean,
  out is_closed boolean, out newest s3_versions, out plain s3_versions,
  out bytes bigint, out versions bigint, out current_keys bigint, out upload_bytes bigint, out uploads bigint
) language plpgsql volatile as $$
begin
  select * into bytes, versions, current_keys, upload_bytes, uploads from s3_room(project, lock, alone);
  is_closed := exists (select 1 from s3_closed c where c.bucket = in_bucket);
  select v.* into newest from s3_versions v where v.bucket = in_bucket and v.key = in_key order by v.ord desc limit 1;
  if newest.id <> 'null' then
    select v.* into plain from s3_versions v where v.bucket = in_bucket and v.key = in_key and v.id = 'null';
  end if;
end $$;

-- A version and all that goes with it, in one question: see `Make`.
create function s3_make(
  in_bucket text, in_key bytea, in_id text, in_marker bigint, in_size bigint, in_etag text,
  in_modified double precision, in_shown text, in_facts text, in_ref bigint, replaced bigint, demoted bigint,
  freed_refs bigint[], freed_blobs text[], at double precision, refs bigint[], bodies bytea[], used text[],
  bucket_owner text, project_owner text, in_slot bigint,
  bytes bigint, versions bigint, current_keys bigint, upload_bytes bigint, uploads bigint
) returns bigint language plpgsql volatile as $$
declare
  made bigint;
begin
  if replaced is not null then
    delete from s3_versions v where v.ord = replaced;
  end if;
  if demoted is not null then
    update s3_versions v set latest = 0 where v.ord = demoted;
  end if;
  if cardinality(freed_refs) > 0 then
    delete from s3_inline i where i.ref = any (freed_refs);
  end if;
  if cardinality(freed_blobs) > 0 then
    update s3_blobs b set since = at where b.blob_id = any (freed_blobs);
  end if;
  if cardinality(refs) > 0 then
    insert into s3_inline (ref, body) select * from unnest(refs, bodies);
  end if;
  if cardinality(used) > 0 then
    insert into s3_blobs (blob_id, since) select id, null from unnest(used) as u (id) order by id
    on conflict (blob_id) do update set since = null;
  end if;
  insert into s3_versions (bucket, key, id, latest, marker, size, etag, modified, shown, facts, ref)
  values (in_bucket, in_key, in_id, 1, in_marker, in_size, in_etag, in_modified, in_shown, in_facts, in_ref)
  returning ord into made;
  insert into s3_held as h (owner, slot, bytes, versions, current_keys, upload_bytes, uploads)
  values ($19, $21, $22, $23, $24, $25, $26), ($20, $21, $22, $23, $24, $25, $26)
  on conflict on constraint s3_held_pkey do update set
    bytes = h.bytes + excluded.bytes, versions = h.versions + excluded.versions,
    current_keys = h.current_keys + excluded.current_keys,
    upload_bytes = h.upload_bytes + excluded.upload_bytes, uploads = h.uploads + excluded.uploads;
  return made;
end $$;

-- A page of current keys from `low` up to `high`, rolled up at the delimiter behind the first `skip` bytes: one look
-- into the index an entry, however many keys a common prefix hides. A common prefix has no `ord`.
create function s3_rolled(in_bucket text, low bytea, high bytea, skip integer, delimiter bytea, at_most bigint)
returns table (name bytea, ord bigint, size bigint, etag text, modified double precision, id text, shown text)
language plpgsql stable as $$
declare
  entry record;
  at integer;
begin
  for n in 1 .. at_most loop
    select v.key, v.ord, v.size, v.etag, v.modified, v.id, v.shown into entry from s3_versions v
     where v.bucket = in_bucket and v.key >= low and v.key < high and v.latest = 1 and v.marker = 0
     order by v.key limit 1;
    exit when not found;
    at := position(delimiter in substr(entry.key, skip + 1));
    if at > 0 then
      name := substr(entry.key, 1, skip + at - 1 + length(delimiter));
      ord := null; size := null; etag := null; modified := null; id := null; shown := null;
      low := set_byte(name, length(name) - 1, get_byte(name, length(name) - 1) + 1);
    else
      name := entry.key;
      ord := entry.ord; size := entry.size; etag := entry.etag; modified := entry.modified;
      id := entry.id; shown := entry.shown;
      low := entry.key || '\x00';
    end if;
    return next;
  end loop;
end $$;
