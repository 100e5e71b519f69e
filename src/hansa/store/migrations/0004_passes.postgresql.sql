-- What the loop asks for all the time, each in one round trip: keys to work on, and the ends of passes.

-- Without statistics (a new cloud, the first minutes of a flood) the planner guesses that a scope is as good as a whole
-- key, and may read a collection for each object that is asked for; and a connection keeps the plan that it made first.
-- So the index for lists takes an expression that only lists name, the one of scopes, which nobody needs here, goes, and
-- the key is made last: of indexes that look the same the youngest is taken.
drop index objects_in_order;
drop index objects_of_scope;
create index objects_in_order on objects ((kind || '/' || scope), seq);
alter table objects set (fillfactor = 85);
alter table objects drop constraint objects_pkey, add primary key (kind, scope, name);

-- Deletions come first; of them there are few.
create index work_going on work (due_at) where going = 1;
-- Claiming changes no indexed column: with room in the page it leaves the indexes alone. The queue is short-lived rows.
alter table work set (fillfactor = 60, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 500);

-- `materialized`: the locks are taken once, whatever the plan; `skip locked`: nobody waits for anybody. A claim that a
-- crash of the server forgets is a key that is due again, and its holder's token lets nobody write: it need not be flushed.
create function hansa_claim(at double precision, until_then double precision, with_token text, at_most bigint)
returns setof work language plpgsql volatile as $$
begin
  perform set_config('synchronous_commit', 'off', true);
  return query
    with gone as materialized (
      select w.kind, w.scope, w.name from work w
       where w.going = 1 and w.due_at <= $1 and w.leased_until <= $1
       order by w.due_at limit $4 for update skip locked),
    others as materialized (
      select w.kind, w.scope, w.name from work w
       where w.going = 0 and w.due_at <= $1 and w.leased_until <= $1
       order by w.due_at limit $4 - (select count(*) from gone) for update skip locked)
    update work w set leased_until = $2, token = $3, woken_at = null
      from (select * from gone union all select * from others) d
     where w.kind = d.kind and w.scope = d.scope and w.name = d.name
    returning w.*;
end $$;

-- The ends of many passes in one transaction: for each a status under its lease and its generation (`statuses` null:
-- none), and the key given back. Each stands or falls alone: all that may refuse one is asked before anything of it is
-- written. What is locked, and in which order, is as for every other commit: see `hansa.store.locks`.
create function hansa_finish(
  store_lock bigint, object_locks bigint[], ats double precision[], kinds text[], scopes text[], names text[],
  tokens text[], generations bigint[], statuses text[], labels text[], wakes boolean[], dues double precision[],
  failed bigint[], authors text[], requests text[]
) returns table (nth bigint, number bigint, refusal text) language plpgsql volatile as $$
declare
  one bigint;
  it record;
  old objects%rowtype;
begin
  if cardinality(object_locks) > 0 then
    perform pg_advisory_xact_lock_shared(store_lock);
    foreach one in array object_locks loop
      perform pg_advisory_xact_lock(one);
    end loop;
  end if;
  perform hansa_hold_work(kinds, scopes, names, wakes);
  for it in
    select * from unnest(ats, kinds, scopes, names, tokens, generations, statuses, labels, wakes, dues, failed, authors, requests)
      with ordinality as t (at, kind, scope, name, token, generation, status, labels, wake, due, failures, who, request, nth)
  loop
    nth := it.nth; number := 0; refusal := null;
    perform 1 from work w where w.kind = it.kind and w.scope = it.scope and w.name = it.name and w.token = it.token;
    if not found then
      refusal := case when it.status is not null then 'lease' end;
      return next;
      continue;
    end if;
    if it.status is not null then
      select * into old from objects o where o.kind = it.kind and o.scope = it.scope and o.name = it.name;
      if not found or old.generation <> it.generation then
        refusal := case when found then 'generation' else 'gone' end;
        return next;
        continue;
      end if;
      if old.status <> it.status or old.observed <> it.generation or old.system_labels <> it.labels then
        number := hansa_set_status(
          old, it.status, coalesce(it.labels, old.system_labels), it.at, it.who, it.request);
      end if;
      if it.wake then
        perform hansa_wake_linked(it.at, it.kind, it.scope, it.name);
      end if;
    end if;
    update work w
       set leased_until = 0, token = '', failures = it.failures, woken_at = null,
           due_at = case when w.woken_at is null then it.due else least(w.woken_at, it.due) end
     where w.kind = it.kind and w.scope = it.scope and w.name = it.name;
    return next;
  end loop;
end $$;

-- The rows of `work` of some objects, and of the neighbours of those that wake theirs, in one order for all.
create function hansa_hold_work(kinds text[], scopes text[], names text[], wakes boolean[]) returns void
language plpgsql volatile as $$
begin
  perform 1 from (
    with woken as materialized (
      select k.kind, k.scope, k.name from unnest($1, $2, $3, $4) as k (kind, scope, name, wake) where k.wake),
    keys as materialized (
      select k.kind, k.scope, k.name from unnest($1, $2, $3) as k (kind, scope, name)
      union
      select l.* from woken k cross join lateral (
        select source_kind, source_scope, source_name from links
         where target_kind = k.kind and target_scope = k.scope and target_name = k.name) l
      union
      select l.* from woken k cross join lateral (
        select target_kind, target_scope, target_name from links
         where source_kind = k.kind and source_scope = k.scope and source_name = k.name) l
      order by 1, 2, 3)
    select h.one from keys k cross join lateral (
      select 1 as one from work w where w.kind = k.kind and w.scope = k.scope and w.name = k.name for update) h
  ) held;
end $$;

-- The number of the change.
create function hansa_set_status(
  old objects, status text, labels text, at double precision, who text, request text
) returns bigint language plpgsql volatile as $$
declare
  number bigint;
begin
  number := hansa_change($4, old.kind, old.scope, old.name, old.uid, 'status', $5, $6,
    '{"created_at":' || old.created_at || ',"generation":' || old.generation || ',"user_revision":' || old.user_revision
    || ',"observed":' || old.generation || ',"deleted_at":' || coalesce(old.deleted_at::text, 'null')
    || ',"labels":' || old.labels || ',"system_labels":' || $3 || ',"spec":' || old.spec || ',"status":' || $2 || '}');
  update objects o set status = $2, system_labels = $3, observed = old.generation, revision = number
   where o.kind = old.kind and o.scope = old.scope and o.name = old.name;
  return number;
end $$;

create function hansa_wake_linked(at double precision, kind text, scope text, name text) returns void
language plpgsql volatile as $$
begin
  update work w
     set due_at = case when w.due_at is null or w.due_at > $1 then $1 else w.due_at end,
         woken_at = case when w.woken_at is null or w.woken_at > $1 then $1 else w.woken_at end
    from (
      select source_kind as kind, source_scope as scope, source_name as name from links
       where target_kind = $2 and target_scope = $3 and target_name = $4
      union
      select target_kind, target_scope, target_name from links
       where source_kind = $2 and source_scope = $3 and source_name = $4) l
   where w.kind = l.kind and w.scope = l.scope and w.name = l.name;
end $$;
