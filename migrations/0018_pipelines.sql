-- Pipelines: declared assemblies of models, the devices that they are applied on, and what was done with them.

create table pipelines (
    id           text primary key,
    name         text not null unique,
    description  text,
    -- { assembly, keep_alive, protect }, models by id
    declared     jsonb not null,
    -- where it goes while it is applied nowhere: `any`, `host:<name>`, `device:<host>/<device>`
    target       text not null default 'any',
    labels       text[] not null default '{}',
    -- of the declaration; raised by each change
    generation   bigint not null default 1,
    -- the newest job that applies it somewhere: its device has a row when the job has ended well
    job_id       text,
    created_at   timestamptz not null default now(),
    updated_at   timestamptz not null default now()
);

create table pipeline_devices (
    pipeline_id         text not null references pipelines (id) on delete cascade,
    -- no reference: a device that is gone may come back
    device              text not null,
    -- what somebody asked for last, and when
    desired             text not null check (desired in ('applied', 'none')),
    desired_at          timestamptz not null default now(),
    -- the declaration that is to be there, and bytes of the components that it needs
    wanted_generation   bigint not null,
    wanted              jsonb not null,
    needs               jsonb not null default '{}',
    -- the declaration that was applied, in which process of the runner of which agent
    applied_generation  bigint,
    applied             jsonb,
    incarnation         text,
    runner_generation   bigint,
    applied_at          timestamptz,
    -- what the job that applied it says of each component
    facts               jsonb,
    -- the newest job about it, until how it ended is noted
    job_id              text,
    last_job_id         text,
    -- since the last success; without `retry_at` nothing is tried again by itself
    failures            integer not null default 0,
    retry_at            timestamptz,
    error               jsonb,
    primary key (pipeline_id, device)
);

create index pipeline_devices_device on pipeline_devices (device);

-- Append-only, pruned by age. No reference: what was done outlives what it was done with.
create table pipeline_history (
    seq              bigint generated always as identity primary key,
    pipeline_id      text not null,
    at               timestamptz not null default now(),
    event            text not null check (event in ('declared', 'applied', 'restored', 'failed', 'lost', 'removed')),
    generation       bigint not null,
    -- who declared it
    who              text,
    device           text,
    job_id           text,
    -- declarations before and after
    before           jsonb,
    after            jsonb,
    seconds          double precision,
    bytes            bigint,
    error            jsonb
);

create index pipeline_history_pipeline on pipeline_history (pipeline_id, seq desc);
create index pipeline_history_at on pipeline_history (at);

-- Deaths of the runner's process since its agent started: what was on the device before is gone with it.
alter table devices add column runner_generation bigint not null default 0;
