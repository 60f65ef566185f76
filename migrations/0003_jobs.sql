-- Durable work: the fenced job table and what belongs to it.
-- States: pending → placed → running → succeeded | failed | cancelled | quarantined. Terminal rows never change.

create table jobs (
    id                   text primary key,
    kind                 text not null,
    args                 jsonb not null,
    args_version         integer not null default 1,
    state                text not null default 'pending'
        check (state in ('pending', 'placed', 'running', 'succeeded', 'failed', 'cancelled', 'quarantined')),
    priority             integer not null default 0,
    -- where it may run
    lane                 text not null check (lane in ('device', 'host', 'fanout')),
    pin_host             text,
    pin_device           text,
    need_labels          text[] not null default '{}',
    needs                jsonb not null default '{}',
    model_id             text,
    -- one active job per key: a second caller joins the first one's job
    unique_key           text,
    run_at               timestamptz not null default now(),
    attempt              integer not null default 0,
    max_attempts         integer not null default 3,
    -- raised by the claim, lowered by any report: what remains are the attempts that killed their worker
    crash_count          integer not null default 0,
    max_crashes          integer not null default 2,
    -- the lease epoch: raised by each placement; every later write must name it
    fence                bigint not null default 0,
    host                 text,
    device               text,
    incarnation          text,
    cancel_requested_at  timestamptz,
    lost_at              timestamptz,
    parent               text,
    retry_of             text,
    reason               jsonb,
    placement            jsonb,
    traceparent          text,
    result               jsonb,
    error                jsonb,
    created_at           timestamptz not null default now(),
    placed_at            timestamptz,
    claimed_at           timestamptz,
    started_at           timestamptz,
    finished_at          timestamptz
) with (fillfactor = 70);

create index jobs_pending on jobs (priority desc, run_at, id) where state = 'pending';
create index jobs_placed_device on jobs (device, priority desc, id) where state = 'placed' and lane = 'device';
create index jobs_placed_host on jobs (host, priority desc, id) where state = 'placed' and lane = 'host';
create index jobs_running on jobs (incarnation) where state = 'running';
create unique index jobs_unique_active on jobs (unique_key) where unique_key is not null and state in ('pending', 'placed', 'running');
create index jobs_parent on jobs (parent) where parent is not null;
create index jobs_finished on jobs (finished_at) where finished_at is not null;
create index jobs_model_active on jobs (model_id) where model_id is not null and state in ('pending', 'placed', 'running');

create table job_attempts (
    job_id       text not null,
    fence        bigint not null,
    attempt      integer not null,
    host         text not null,
    device       text,
    incarnation  text not null,
    started_at   timestamptz not null default now(),
    ended_at     timestamptz,
    outcome      text,
    error        jsonb,
    primary key (job_id, fence)
);

-- Append-only; `seq` is the SSE id that a client replays from.
create table job_events (
    seq     bigint generated always as identity primary key,
    job_id  text not null,
    at      timestamptz not null default now(),
    type    text not null,
    data    jsonb not null default '{}'
);

create index job_events_job on job_events (job_id, seq);

-- At most one write a second and job, so that progress never bloats the job row.
create table job_progress (
    job_id       text primary key,
    fence        bigint not null,
    phase        text not null,
    bytes_done   bigint not null default 0,
    bytes_total  bigint not null default 0,
    eta_seconds  double precision,
    detail       text,
    at           timestamptz not null default now()
) with (fillfactor = 50);

-- Finished jobs move here, partitioned by month, so that the hot table stays small.
create table job_archive (like jobs including defaults) partition by range (finished_at);
create table job_archive_default partition of job_archive default;
create index job_archive_id on job_archive (id);

create view all_jobs as
    select * from jobs
    union all
    select * from job_archive;

-- Periodic work; the leader fires each at most once per due time.
create table schedules (
    name           text primary key,
    template       jsonb not null,
    every_seconds  bigint not null check (every_seconds > 0),
    paused         boolean not null default false,
    next_fire_at   timestamptz not null default now(),
    last_fire_at   timestamptz
);

create table idempotency_keys (
    route        text not null,
    key          text not null,
    fingerprint  text not null,
    status       integer,
    response     jsonb,
    created_at   timestamptz not null default now(),
    primary key (route, key)
);
