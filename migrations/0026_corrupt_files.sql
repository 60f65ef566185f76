-- Files of a host whose bytes were read and are not those that are registered. A model with such a file is not read from that
-- host's disk while that stands; nothing that is known of the model is forgotten.

create table corrupt_files (
    host          text not null references hosts (name) on delete cascade,
    -- {size_bytes, mtime_ns, inode, dev}: which file it was, whatever its name. Another one at the path is not meant.
    file          jsonb not null,
    -- whose digest differs; null where the hash of the whole file does. No reference: a component that leaves the catalogue
    -- makes no bytes better. Components of one file have a mark each.
    component_id  text,
    expected      text not null,
    actual        text not null,
    -- the job that found it out
    job_id        text not null,
    found_at      timestamptz not null default now()
);
-- one for each, and one for the whole file, in words that Postgres 14 knows as well
create unique index corrupt_files_one on corrupt_files (host, file, coalesce(component_id, ''));
