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
