-- What becomes resident and what leaves, in one order with the events of jobs: one stream tells both, and one id says where a client stopped.

create table residency_events (
    seq     bigint primary key default nextval('job_events_seq_seq'),
    at      timestamptz not null default clock_timestamp(),
    type    text not null,
    -- no references, because history outlives hosts, devices and the catalogue
    host    text not null,
    -- absent for the RAM tier
    device  text,
    data    jsonb not null
);
