-- What benchmarks measured, for those who ask whether it became slower.

create table benchmarks (
    id           text primary key,
    model_id     text not null references models (id) on delete cascade,
    job_id       text not null,
    -- no reference: figures outlive the device that they are of
    device       text not null,
    -- kinds of components that were measured
    components   text[] not null,
    -- whole generations instead of components
    pipeline     boolean not null,
    args         jsonb not null,
    fingerprint  jsonb not null,
    -- series are bounded by the measurement
    result       jsonb not null,
    stable       boolean not null,
    -- no reference: what was compared may be dropped, the verdict stays
    baseline_id  text,
    verdict      text check (verdict in ('incomparable', 'unchanged', 'improved', 'regressed')),
    comparison   jsonb,
    created_at   timestamptz not null default now()
);

create index benchmarks_model on benchmarks (model_id, device, created_at desc);
create index benchmarks_created on benchmarks (created_at desc, id desc);
