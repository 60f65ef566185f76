-- Bytes that go into jobs and come out of them: uploads and artifacts, both as blobs in rows of 1 MiB.

create table blobs (
    id          text primary key,
    media_type  text not null,
    size_bytes  bigint not null default 0 check (size_bytes >= 0),
    -- of all bytes; none while they arrive, and of those that never arrived whole
    blake3      text,
    created_at  timestamptz not null default now()
);

create index blobs_unfinished on blobs (created_at) where blake3 is null;

-- Every row but a blob's last has 1 MiB, so that a range is found without reading what is before it.
create table blob_chunks (
    blob_id  text not null references blobs (id) on delete cascade,
    number   integer not null,
    bytes    bytea not null check (octet_length(bytes) between 1 and 1048576),
    primary key (blob_id, number)
);
-- images and weights do not get smaller; compressing them again costs time only
alter table blob_chunks alter column bytes set storage external;

create table uploads (
    id          text primary key,
    blob_id     text not null unique references blobs (id) on delete cascade,
    -- as the client calls it
    name        text,
    created_at  timestamptz not null default now(),
    expires_at  timestamptz not null
);

create index uploads_expires on uploads (expires_at);

-- No reference to the job: jobs move to the archive, and artifacts have a retention of their own.
create table artifacts (
    job_id      text not null,
    name        text not null,
    blob_id     text not null unique references blobs (id) on delete cascade,
    -- as the job names them, from 0
    position    integer not null,
    -- shown while the job runs; its success replaces them
    preview     boolean not null default false,
    created_at  timestamptz not null default now(),
    primary key (job_id, name)
);

create index artifacts_created on artifacts (created_at);

-- Jobs that work on a blob: while one of them is active, the blob stays.
create table blob_uses (
    blob_id  text not null references blobs (id) on delete cascade,
    job_id   text not null,
    primary key (blob_id, job_id)
);
