"""Every statement, named, in the SQL that SQLite and PostgreSQL share. Parameters are `:name`.

Two rules keep it shared: no function but `coalesce`, `min`/`max` as aggregates, `sum`, `count`; and what
each database calls the smaller of two values is written as a `case`.
"""

from __future__ import annotations

KEY = "kind = :kind and scope = :scope and name = :name"
COLUMNS = (
    "kind, scope, name, uid, created_at, generation, revision, user_revision, observed, deleted_at, "
    "labels, system_labels, spec, status, seq"
)

# -- objects ------------------------------------------------------------------------------------

GET = f"select {COLUMNS} from objects where {KEY}"
GET_ASKED = f"""
select {COLUMNS}, (select request from changes where revision = objects.user_revision) from objects where {KEY}"""
FIND = f"select {COLUMNS} from objects where uid = :uid"
LIST = f"""
select {COLUMNS} from objects
 where (:kind = '' or kind = :kind) and (scope = :scope or (:below = 1 and (:scope = '' or scope like :inside escape '!')))
   and seq > :after
 order by seq limit :limit"""
LIST_EXACT = f"""
select {COLUMNS} from objects where kind = :kind and scope = :scope and seq > :after order by seq limit :limit"""
STATE = f"select uid, deleted_at, user_revision, generation, spec, labels from objects where {KEY}"
INSERT_OBJECT = """
insert into objects (kind, scope, name, uid, seq, created_at, generation, revision, user_revision, observed,
                     deleted_at, labels, system_labels, spec, status)
values (:kind, :scope, :name, :uid, :revision, :at, 1, :revision, :revision, :observed,
        null, :labels, :system_labels, :spec, :status)"""
UPDATE_OBJECT = f"""
update objects set spec = :spec, labels = :labels, generation = :generation, observed = :observed,
                   revision = :revision, user_revision = :revision
 where {KEY}"""
SET_STATUS = f"""
update objects set status = :status, system_labels = :system_labels, observed = :generation, revision = :revision
 where {KEY}"""
MARK_DELETED = f"update objects set deleted_at = :at, revision = :revision, user_revision = :revision where {KEY}"
FORGET_OBJECT = f"delete from objects where {KEY}"

# -- changes ------------------------------------------------------------------------------------

INSERT_CHANGE = """
insert into changes (at, kind, scope, name, uid, act, by_whom, request, body)
values (:at, :kind, :scope, :name, :uid, :act, :by, :request, :body) returning revision"""
CHANGES = """
select revision, at, kind, scope, name, uid, act, by_whom, request, body from changes
 where revision > :after and (:scope = '' or scope = :scope or scope like :inside escape '!')
 order by revision limit :limit"""
REVISION = "select coalesce(max(revision), 0) from changes"
OLDEST = "select value from marks where name = 'oldest_change'"
DROP_CHANGES = "delete from changes where at < :before and revision < :below"
SET_OLDEST = """
update marks set value = (select coalesce(min(revision), 0) from changes) where name = 'oldest_change'"""

# -- work ---------------------------------------------------------------------------------------

INSERT_WORK = """
insert into work (kind, scope, name, due_at, woken_at, leased_until, token, failures, going)
values (:kind, :scope, :name, :due, null, 0, '', 0, 0)"""
WORK = f"select due_at, leased_until, failures, token from work where {KEY}"
# Woken: due no later than :at, and remembered for the one who holds the lease meanwhile.
_WOKEN = """
update work set due_at = case when due_at is null or due_at > :at then :at else due_at end,
                woken_at = case when woken_at is null or woken_at > :at then :at else woken_at end"""
WAKE = f"{_WOKEN} where {KEY}"
WAKE_GOING = f"{_WOKEN}, going = 1, failures = 0 where {KEY}"
WAKE_LINKED = f"""
{_WOKEN}
 where (kind, scope, name) in (
   select source_kind, source_scope, source_name from links
    where target_kind = :kind and target_scope = :scope and target_name = :name
   union
   select target_kind, target_scope, target_name from links
    where source_kind = :kind and source_scope = :scope and source_name = :name)"""
CLAIM = """
update work set leased_until = :until, token = :token, woken_at = null
 where (kind, scope, name) in (
   select kind, scope, name from work
    where due_at <= :now and leased_until <= :now
    order by going desc, due_at limit :limit)
returning kind, scope, name, failures, going, due_at"""
# The first that is free, by its index; whoever is due before it is leased, until then.
NEXT_DUE = """
with free as (select min(due_at) as at from work where due_at is not null and leased_until <= due_at)
select min(at) from (
  select at from free where at is not null
  union all
  select min(w.leased_until) as at from work w, free
   where w.due_at < coalesce(free.at, 1e300) and w.leased_until > w.due_at) as both_of_them"""
RELEASE_LEASES = """
update work set leased_until = 0, token = '' where leased_until > 0 and token like :inside escape '!' returning name"""
BACKLOG = """
select sum(case when leased_until <= :now then 1 else 0 end),
       min(case when leased_until <= :now then due_at end),
       sum(case when leased_until > :now then 1 else 0 end)
  from work where due_at <= :now"""
HOLDS_LEASE = f"select 1 from work where {KEY} and token = :token"
SETTLE = f"""
update work set leased_until = 0, token = '', failures = :failures,
                due_at = case when woken_at is null then :due
                              when woken_at < :due or :due is null then woken_at else :due end,
                woken_at = null
 where {KEY} and token = :token"""
FORGET_WORK = f"delete from work where {KEY}"

# The clock was set back: what was due in a minute is due in a minute.
REBASE = """
update work set due_at = due_at - :back, leased_until = case when leased_until > 0 then leased_until - :back else 0 end,
                woken_at = woken_at - :back"""
# To find out whether it can be written: another value each time, since SQLite writes no page that stays as it is.
TOUCH = """
insert into marks (name, value) values ('touched', 0)
on conflict (name) do update set value = case when marks.value < 1000000 then marks.value + 1 else 0 end"""

# -- links --------------------------------------------------------------------------------------

INSERT_LINK = """
insert into links (source_kind, source_scope, source_name, source_uid, target_kind, target_scope, target_name, path, holds)
values (:kind, :scope, :name, :uid, :target_kind, :target_scope, :target_name, :path, :holds)"""
FORGET_LINKS = "delete from links where source_kind = :kind and source_scope = :scope and source_name = :name"
_LINK_COLUMNS = (
    "source_kind, source_scope, source_name, source_uid, target_kind, target_scope, target_name, path, holds"
)
LINKS_TO = f"""
select {_LINK_COLUMNS} from links where target_kind = :kind and target_scope = :scope and target_name = :name
 order by source_kind, source_scope, source_name, path"""
LINKS_FROM = f"""
select {_LINK_COLUMNS} from links where source_kind = :kind and source_scope = :scope and source_name = :name
 order by path"""
HOLDERS = """
select distinct o.kind, o.name from links l
  join objects o on o.kind = l.source_kind and o.scope = l.source_scope and o.name = l.source_name
 where l.target_kind = :kind and l.target_scope = :scope and l.target_name = :name and l.holds = 1
   and o.deleted_at is null
 order by o.kind, o.name limit 4"""

# -- claims -------------------------------------------------------------------------------------

_LIVE = "(until is null or until > :now)"
CLAIMS_IN = f"""
select scope, key, owner, amount, single, until, note from claims
 where (scope = :scope or (:below = 1 and scope like :inside escape '!')) and {_LIVE} order by scope, key, owner"""
CLAIMS_OF = f"""
select scope, key, owner, amount, single, until, note from claims where owner = :owner and {_LIVE} order by scope, key"""
CLAIM_HOLDERS = "select owner, amount, single, until from claims where scope = :scope and key = :key"
SCOPE_HOLDERS = "select key, owner, until from claims where scope = :scope"
DROP_CLAIM = "delete from claims where scope = :scope and key = :key and owner = :owner"
INSERT_CLAIM = """
insert into claims (scope, key, owner, amount, single, until, note)
values (:scope, :key, :owner, :amount, :single, :until, :note)"""
RELEASE_ALL = "delete from claims where owner = :owner"
RELEASE = "delete from claims where owner = :owner and (scope = :scope or scope like :inside escape '!')"
DROP_EXPIRED = "delete from claims where until is not null and until <= :now"

# -- counted claims -----------------------------------------------------------------------------

CEILINGS_IN = "select key, ceiling, held from ceilings where scope = :scope order by key"
CEILING = "select ceiling, held from ceilings where scope = :scope and key = :key"
# The row is the lock of its sum: two that take the last of something come one after the other here. Taking less is
# written as a comparison of sums, so that both databases see numbers of bytes and not small ones.
COUNT = """
update ceilings set held = held + :more
 where scope = :scope and key = :key and (held + :more <= held or held + :more <= coalesce(ceiling, :otherwise))
returning held"""
INSERT_CEILING = """
insert into ceilings (scope, key, ceiling, held) values (:scope, :key, null, 0) on conflict (scope, key) do nothing"""
SET_CEILING = """
insert into ceilings (scope, key, ceiling, held) values (:scope, :key, :ceiling, 0)
on conflict (scope, key) do update set ceiling = :ceiling"""
UNSET_CEILINGS = "update ceilings set ceiling = null where scope = :scope and ceiling is not null"
DROP_UNUSED_CEILINGS = "delete from ceilings where scope = :scope and ceiling is null and held = 0"
CLAIMED_BY = "select scope, key, amount from claims where owner = :owner"
COUNTED_OF = """
select c.scope, c.key, c.amount from claims c join ceilings k on k.scope = c.scope and k.key = c.key
 where c.owner = :owner and (:prefix = '' or c.scope = :prefix or c.scope like :inside escape '!')
 order by c.scope, c.key"""

# -- records and secrets ------------------------------------------------------------------------

APPEND = """
insert into records (stream, id, about, at, body) values (:stream, :id, :about, :at, :body)
on conflict (stream, id) do nothing"""
RECORDS = """
select stream, id, about, at, body from records
 where stream = :stream and (:about = '' or about = :about) order by at desc, id limit :limit"""
RECORDS_SPAN = """
select stream, id, about, at, body from records
 where stream = :stream and (:about = '' or about = :about) and at >= :since and at <= :before
   and (at < :before or id < :below) order by at desc, id desc limit :limit"""
RECORD = "select stream, id, about, at, body from records where stream = :stream and id = :id"
PAIRS = """
select o.stream, o.id, o.about, o.at, o.body, c.at, c.body
  from records o left join records c on c.stream = :second and c.id = o.id
 where o.stream = :first and (:about = '' or o.about = :about)
   and (o.at > :after_at or (o.at = :after_at and o.id > :after_id))
   and (c.at is null or (:alone = 0 and c.at >= :since))
 order by o.at, o.id limit :limit"""
SET_SECRET = """
insert into secrets (uid, name, sealed) values (:uid, :name, :sealed)
on conflict (uid, name) do update set sealed = :sealed"""
SECRET = "select sealed from secrets where uid = :uid and name = :name"  # noqa: S105 - a statement, not a password
RESEAL = """
update secrets set sealed = :sealed where uid = :uid and name = :name and sealed = :old"""
SECRETS = """
select uid, name, sealed from secrets where uid > :uid or (uid = :uid and name > :name) order by uid, name limit :limit"""
FORGET_SECRETS = "delete from secrets where uid = :uid"
