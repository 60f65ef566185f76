-- Devices choose what leaves them as RAM does, and a plan to free memory is a reason of its own.

-- '' for the RAM tier; each tier of an agent counts its own decisions
alter table cache_evictions add column device text not null default '';
alter table cache_evictions drop constraint cache_evictions_pkey;
alter table cache_evictions add primary key (host, incarnation, device, seq);
alter table cache_evictions drop constraint cache_evictions_reason_check;
alter table cache_evictions add constraint cache_evictions_reason_check
    check (reason in ('room', 'pressure', 'expired', 'requested', 'cleared', 'duplicate', 'superseded', 'optimized'));
