-- The farm: hosts, the leases of their agents, devices and model roots.

create table hosts (
    name              text primary key,
    -- ULID of the agent process that registered last; new at every start (never the host's or pod's name)
    incarnation       text not null,
    agent_version     text not null,
    draining          boolean not null default false,
    labels            text[] not null default '{}',
    slots             integer not null check (slots > 0),
    ram_budget_bytes  bigint not null check (ram_budget_bytes >= 0),
    capabilities      jsonb not null default '{}',
    registered_at     timestamptz not null default now()
);

-- One narrow row per agent process; a heartbeat writes nothing else, so it stays a HOT update.
-- Keyed by incarnation: a restarted agent does not end the lease of its predecessor, which may still be running work.
create table host_leases (
    incarnation  text primary key,
    host         text not null references hosts (name) on delete cascade,
    lease_until  timestamptz not null
) with (fillfactor = 50);

create index host_leases_host on host_leases (host);

create table devices (
    id                  text primary key, -- '<host>/<name>', e.g. 'gpu-07/cuda:1'
    host                text not null references hosts (name) on delete cascade,
    name                text not null,
    kind                text not null check (kind in ('cpu', 'cuda')),
    uuid                text,
    product             text not null,
    memory_total_bytes  bigint not null check (memory_total_bytes >= 0),
    memory_used_bytes   bigint not null default 0,
    slots               integer not null default 1 check (slots > 0),
    labels              text[] not null default '{}',
    state               text not null check (state in ('ready', 'draining', 'lost', 'quarantined')),
    reason              text,
    updated_at          timestamptz not null default now(),
    unique (host, name)
);

create table roots (
    host        text not null references hosts (name) on delete cascade,
    name        text not null,
    path        text not null,
    state       text not null default 'ready' check (state in ('ready', 'missing')),
    reason      text,
    scanned_at  timestamptz,
    primary key (host, name)
);

-- Leadership: the term is issued here, and every write of a leader names its term.
create table leaders (
    role        text primary key,
    holder      text not null,
    term        bigint not null,
    elected_at  timestamptz not null,
    expires_at  timestamptz not null
);
