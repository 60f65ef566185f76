-- Lists show and filter by the last validation of a model, and find their pages without visiting rows that they do not show.

alter table model_search
    -- of the last validation of any host; none when there is none
    add column verdict text,
    -- the files on that host are others by now
    add column verdict_stale boolean not null default false,
    -- what filters ask for
    add column judged text not null
        generated always as (case when verdict is null then 'none' when verdict_stale then 'stale' else verdict end) stored;

-- A list walks one of these in its order and looks at its filters in the index itself: where few models pass and stand late in
-- the order, it visits thousands of entries and no rows.
drop index model_search_name, model_search_size, model_search_created, model_search_updated;
create index model_search_name on model_search (name, model_id)
    include (type, base, format, variant, prediction, state, size_bytes, judged);
create index model_search_size on model_search (size_bytes, model_id)
    include (name, type, base, format, variant, prediction, state, judged);
create index model_search_created on model_search (created_at, model_id)
    include (name, type, base, format, variant, prediction, state, size_bytes, judged);
create index model_search_updated on model_search (updated_at, model_id)
    include (name, type, base, format, variant, prediction, state, size_bytes, judged);
-- that takes pages that are known to be visible to all
alter table model_search set (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_insert_scale_factor = 0.02,
    autovacuum_analyze_scale_factor = 0.02);

-- what few models are
create index model_search_state on model_search (state, name, model_id) where state <> 'available';
create index model_search_prediction on model_search (prediction, name, model_id) where prediction is not null;
create index model_search_judged on model_search (judged, name, model_id) where judged <> 'none';
-- parts of names of one or two letters are their beginnings
create index model_search_beginning on model_search ((lower(name) collate "C"), model_id);
-- longer parts
create index model_search_parts on model_search using gin (name gin_trgm_ops) with (gin_pending_list_limit = 256);
create index model_locations_host on model_locations (host, model_id);
-- types, bases and dtypes go together; taken for independent, their combinations look rarer or more frequent than they are
create statistics model_search_facts (mcv) on type, base, format, variant, prediction, state from model_search;

-- Brings the verdicts of these models up to date.
create function model_search_judge(changed text[]) returns void language sql as $$
    update model_search s set verdict = last.verdict, verdict_stale = last.stale
    from (select distinct on (v.model_id) v.model_id, v.verdict, l.files is distinct from v.files as stale
        from validations v left join model_locations l on l.model_id = v.model_id and l.host = v.host
        where v.model_id = any(changed) order by v.model_id, v.created_at desc, v.id desc) as last
    where s.model_id = last.model_id and (s.verdict, s.verdict_stale) is distinct from (last.verdict, last.stale)
$$;

create function model_search_follow_changed() returns trigger language plpgsql as $$
begin
    -- most scans come before any validation
    if exists (select 1 from validations) then
        perform model_search_judge(array(select model_id from changed));
    end if;
    return null;
end
$$;

create function model_search_follow_files() returns trigger language plpgsql as $$
begin
    if exists (select 1 from validations) then
        perform model_search_judge(array(select changed.model_id from changed join before using (model_id, host)
            where changed.files is distinct from before.files));
    end if;
    return null;
end
$$;

-- Deletes take validations that are not the last, and those of models that go.
create trigger model_search_validated after insert on validations
    referencing new table as changed for each statement execute function model_search_follow_changed();
create trigger model_search_placed after insert on model_locations
    referencing new table as changed for each statement execute function model_search_follow_changed();
create trigger model_search_gone after delete on model_locations
    referencing old table as changed for each statement execute function model_search_follow_changed();
create trigger model_search_replaced after update on model_locations
    referencing old table as before new table as changed for each statement execute function model_search_follow_files();

select model_search_judge(array(select distinct model_id from validations));
