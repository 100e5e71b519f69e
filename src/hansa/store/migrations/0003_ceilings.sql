-- Counted claims: what is held of each (scope, key), kept beside its limit, so that a claim costs the same
-- whether ten hold something or a hundred thousand do. `ceiling` null: no limit of its own was set.

create table ceilings (
  scope text not null, key text not null,
  ceiling bigint,
  held bigint not null,
  primary key (scope, key)
);
