-- Order of revisions. Numbers are given out before transactions end, so a reader may see 5 while 4 is still to come.
--
-- Before a transaction takes its first number, it notes the last one given out until then as a lock that all may see:
-- its own numbers will be higher. A reader looks at the last number first and at the locks after it. Whoever took a
-- number up to that one had its lock by then: it either holds it still, and the reader stops at what it notes, or it
-- has ended, and whatever it wrote is seen by the next statement. (The ids of transactions would not do: a lower number
-- may belong to a younger transaction.)

create function hansa_change(
  at double precision, kind text, scope text, name text, uid text, act text, by_whom text, request text, body text
) returns bigint language plpgsql volatile as $$
declare
  number bigint;
begin
  if coalesce(current_setting('hansa.numbered', true), '') = '' then
    perform pg_advisory_xact_lock_shared('changes'::regclass::oid::integer, (hansa_given_out() & 2147483647)::integer);
    perform set_config('hansa.numbered', 'yes', true);
  end if;
  number := nextval('changes_revision_seq');
  insert into changes (revision, at, kind, scope, name, uid, act, by_whom, request, body)
  values (number, $1, $2, $3, $4, $5, $6, $7, $8, $9);
  return number;
end $$;

-- The last number given out, whatever became of it.
create function hansa_given_out() returns bigint language sql volatile as $$
  select case when is_called then last_value else 0 end from changes_revision_seq
$$;

-- Up to here nothing can appear any more. What is to be read up to it needs a statement of its own, begun later.
create function hansa_readable() returns bigint language plpgsql volatile as $$
declare
  given_out bigint := hansa_given_out();
begin
  return (
    select coalesce(min(given_out - ((given_out - objid::bigint) & 2147483647)), given_out) from pg_locks
     where locktype = 'advisory' and classid = 'changes'::regclass::oid and objsubid = 2 and granted
       and database = (select oid from pg_database where datname = current_database()));
end $$;

create function hansa_changes(behind bigint, in_scope text, inside text, at_most bigint) returns setof changes
language plpgsql volatile as $$
declare
  readable bigint := hansa_readable();
begin
  return query
    select * from changes c
     where c.revision > $1 and c.revision <= readable
       and ($2 = '' or c.scope = $2 or c.scope like $3 escape '!')
     order by c.revision limit $4;
end $$;

-- A new object in one round trip: null when its key is there already.
create function hansa_create(
  at double precision, kind text, scope text, name text, uid text, by_whom text, request text, body text,
  labels text, system_labels text, spec text, status text, observed bigint, due double precision
) returns bigint language plpgsql volatile as $$
declare
  number bigint;
begin
  if exists (select 1 from objects o where o.kind = $2 and o.scope = $3 and o.name = $4) then
    return null;
  end if;
  number := hansa_change($1, $2, $3, $4, $5, 'create', $6, $7, $8);
  insert into objects (kind, scope, name, uid, seq, created_at, generation, revision, user_revision, observed,
                       deleted_at, labels, system_labels, spec, status)
  values ($2, $3, $4, $5, number, $1, 1, number, number, $13, null, $9, $10, $11, $12);
  insert into work (kind, scope, name, due_at, woken_at, leased_until, token, failures, going)
  values ($2, $3, $4, $14, null, 0, '', 0, 0);
  return number;
end $$;
