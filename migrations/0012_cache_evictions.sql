-- What RAM tiers took out and why: the decisions of each agent, with the table of what else could have gone.

create table cache_evictions (
    host          text not null references hosts (name) on delete cascade,
    -- the agent process; it counts its decisions from 1
    incarnation   text not null,
    seq           bigint not null,
    at            timestamptz not null,
    reason        text not null
        check (reason in ('room', 'pressure', 'expired', 'requested', 'cleared', 'duplicate', 'superseded')),
    policy        text,
    -- the component that needed room; no reference, because history outlives the catalogue
    wanted        text,
    wanted_bytes  bigint not null,
    need_bytes    bigint not null,
    freed_bytes   bigint not null,
    -- the components that went, for the question why one went last
    victims       text[] not null,
    -- bounded; `omitted` counts what was left out
    candidates    jsonb not null,
    omitted       bigint not null,
    primary key (host, incarnation, seq)
);

create index cache_evictions_at on cache_evictions (at desc);
create index cache_evictions_victims on cache_evictions using gin (victims);
