-- When hosts and devices leave service and come back, in one order with the events of jobs and of residency.

create table host_events (
    seq     bigint primary key default nextval('job_events_seq_seq'),
    at      timestamptz not null default clock_timestamp(),
    type    text not null,
    -- no references, because history outlives hosts and devices
    host    text not null,
    -- absent where it is about the host itself
    device  text,
    data    jsonb not null
);

-- The state that was told last: `ready`, `draining`, `lost`; none before the first. Whether a host lives follows from its lease and from the clock:
-- no row changes when it is lost, and this one does when somebody notices.
alter table hosts add column told_state text;

-- who is away already is no news
update hosts h set told_state = case
    when not exists (select 1 from host_leases l where l.incarnation = h.incarnation and l.lease_until > now()) then 'lost'
    when h.draining then 'draining'
    else 'ready'
end;
