-- Hashes of files as they are on a host, and what validations found.

-- Keyed by the file's identity: a file that did not change is never read again, whatever model it belongs to.
create table file_hashes (
    host            text not null references hosts (name) on delete cascade,
    dev             bigint not null,
    inode           bigint not null,
    size_bytes      bigint not null,
    mtime_ns        bigint not null,
    blake3          text not null,
    sha256          text not null,
    payload_sha256  text,
    autov1          text not null,
    hashed_at       timestamptz not null default now(),
    primary key (host, dev, inode)
);

create index file_hashes_sha256 on file_hashes (sha256);
-- what still has to be hashed
create index models_without_digest on models (id) where content_digest is null;

create table validations (
    id          text primary key,
    model_id    text not null references models (id) on delete cascade,
    job_id      text not null,
    host        text not null,
    level       text not null,
    verdict     text not null check (verdict in ('ok', 'degraded', 'invalid', 'unsafe')),
    errors      bigint not null,
    warnings    bigint not null,
    infos       bigint not null,
    -- bounded; `omitted` counts what was left out
    findings    jsonb not null,
    omitted     bigint not null,
    tensors     bigint not null,
    bytes       bigint not null,
    seconds     double precision not null,
    -- as in `model_locations`: other files there now mean that this report is stale
    files       jsonb not null,
    created_at  timestamptz not null default now()
);

create index validations_model on validations (model_id, id desc);
