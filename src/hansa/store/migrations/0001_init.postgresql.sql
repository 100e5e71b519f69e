-- Order of revisions. Numbers are given out before transactions end, so a reader may see 5 while 4 is still to come.
--
-- `ended_by`: every transaction that took a lower number has one of the transaction ids below this one. It follows
-- from the order in the function: a transaction has its id before it takes a number, and the snapshot that tells the
-- next id to be given out is taken after the number. Once all ids below `ended_by` have ended, nothing can appear at
-- or below this revision any more. (To compare the row's own transaction with the oldest running one would not do: a
-- lower number may belong to a younger transaction.)

alter table changes add column ended_by xid8 not null default '0';

create function hansa_change(
  at double precision, kind text, scope text, name text, uid text, act text, by_whom text, request text, body text
) returns bigint language plpgsql volatile as $$
declare
  number bigint;
begin
  perform pg_current_xact_id();
  number := nextval('changes_revision_seq');
  insert into changes (revision, at, kind, scope, name, uid, act, by_whom, request, body, ended_by)
  values (number, $1, $2, $3, $4, $5, $6, $7, $8, $9, pg_snapshot_xmax(pg_current_snapshot()));
  return number;
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
