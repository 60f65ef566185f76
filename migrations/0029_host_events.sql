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

-- The state that was told last: `ready`, `draining`, `lost`; no row before the first. Whether a host lives follows from its lease and from the clock:
-- no row changes when it is lost, and this one does when somebody notices. Not a column of `hosts`, because daemons of before read whole rows of it by
-- statements that they have prepared.
create table host_states (
    host  text primary key references hosts (name) on delete cascade,
    told  text not null
);

-- who is away already is no news
insert into host_states (host, told)
select h.name, case
    when not exists (select 1 from host_leases l where l.incarnation = h.incarnation and l.lease_until > now()) then 'lost'
    when h.draining then 'draining'
    else 'ready'
end
from hosts h;
