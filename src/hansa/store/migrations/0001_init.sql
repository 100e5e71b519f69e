-- The seven tables. Kinds are documents inside `objects`: a new kind needs no migration.

create table objects (
  kind text not null, scope text not null, name text not null,
  uid text not null unique,
  seq integer not null,
  created_at real not null,
  generation integer not null,
  revision integer not null,
  user_revision integer not null,
  observed integer not null,
  deleted_at real,
  labels text not null,
  system_labels text not null,
  spec text not null,
  status text not null,
  primary key (kind, scope, name)
);
create index objects_in_order on objects (kind, scope, seq);
create index objects_of_scope on objects (scope);

create table changes (
  revision integer primary key autoincrement,
  at real not null,
  kind text not null, scope text not null, name text not null,
  uid text not null,
  act text not null,
  by_whom text not null,
  request text not null,
  body text
);

create table work (
  kind text not null, scope text not null, name text not null,
  due_at real,
  woken_at real,
  leased_until real not null,
  token text not null,
  failures integer not null,
  going integer not null,
  primary key (kind, scope, name)
);
create index work_due on work (due_at) where due_at is not null;

create table links (
  source_kind text not null, source_scope text not null, source_name text not null,
  source_uid text not null,
  target_kind text not null, target_scope text not null, target_name text not null,
  path text not null,
  holds integer not null
);
create index links_from on links (source_kind, source_scope, source_name);
create index links_to on links (target_kind, target_scope, target_name);

create table claims (
  scope text not null, key text not null,
  owner text not null,
  amount integer not null,
  single integer not null,
  until real,
  note text not null,
  primary key (scope, key, owner)
);
create unique index claims_single on claims (scope, key) where single = 1;
create index claims_of_owner on claims (owner);

create table records (
  stream text not null, id text not null,
  about text not null,
  at real not null,
  body text not null,
  primary key (stream, id)
);
create index records_about on records (stream, about, at);

create table secrets (
  uid text not null, name text not null,
  sealed blob not null,
  primary key (uid, name)
);

create table marks (
  name text primary key,
  value integer not null
);
insert into marks (name, value) values ('oldest_change', 0);
