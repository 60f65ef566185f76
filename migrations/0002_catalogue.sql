-- The catalogue: what is on disk, in which components, and what is resident.

create table models (
    id          text primary key,
    name        text not null unique,
    type        text not null,
    base        text not null,
    format      text not null,
    variant     text,
    prediction  text,
    root        text not null,
    rel_path    text not null,
    size_bytes  bigint not null,
    digest      text,
    state       text not null default 'available' check (state in ('available', 'missing', 'unreadable')),
    -- why the type is `unknown` or the state not `available`
    reason      text,
    evidence    jsonb not null default '[]',
    metadata    jsonb not null default '{}',
    version     bigint not null default 1,
    created_at  timestamptz not null default now(),
    updated_at  timestamptz not null default now(),
    -- roots with the same name on two hosts hold the same library
    unique (root, rel_path)
);

create index models_type_base on models (type, base, name);

create table model_locations (
    model_id  text not null references models (id) on delete cascade,
    host      text not null references hosts (name) on delete cascade,
    root      text not null,
    rel_path  text not null,
    -- [{rel_path, size_bytes, mtime_ns, inode, dev}]: the identity that a load compares before and after reading
    files     jsonb not null,
    seen_at   timestamptz not null default now(),
    primary key (model_id, host)
);

create index model_locations_host_root on model_locations (host, root);

create table components (
    id            text primary key,
    model_id      text not null references models (id) on delete cascade,
    kind          text not null,
    bytes         bigint not null,
    param_count   bigint not null,
    tensor_count  integer not null,
    dtype         text not null,
    -- digest of the tensors, known after the first load; a later load must produce the same
    digest        text,
    updated_at    timestamptz not null default now(),
    unique (model_id, kind)
);

create index components_kind on components (kind, id);
create index components_digest on components (digest) where digest is not null;

-- What each agent last reported as resident. `device` is '' for the RAM tier.
create table residency (
    host          text not null references hosts (name) on delete cascade,
    device        text not null default '',
    component_id  text not null references components (id) on delete cascade,
    tier          text not null check (tier in ('ram', 'vram')),
    state         text not null check (state in ('loading', 'ready', 'evicting', 'failed')),
    bytes         bigint not null,
    leases        integer not null default 0,
    protected     boolean not null default false,
    incarnation   text not null,
    since         timestamptz not null default now(),
    primary key (host, device, component_id)
);

create index residency_component on residency (component_id);
