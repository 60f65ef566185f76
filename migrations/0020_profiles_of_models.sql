-- Lists by what models are come from short walks: models that are alike in everything that is a word of a short list share a profile,
-- which an index holds in eight bytes, and each order is kept apart for each type, because sizes and much else go with types.

-- The number of what a model is. Two sets of facts with one number are as likely as two files with one hash of 64 bits.
create function model_profile(type text, base text, format text, variant text, prediction text, state text, judged text, kinds text[])
returns bigint language sql immutable parallel safe as $$
    select hash_record_extended(row(type, base, format, variant, prediction, state, judged, kinds), 0)
$$;

-- Every profile that a model has, or had once. Only appended to and without a unique index, so that writers never wait for each
-- other; one may be there twice.
create table model_profiles (
    type        text not null,
    base        text not null,
    format      text not null,
    variant     text,
    prediction  text,
    state       text not null,
    judged      text not null,
    kinds       text[] not null,
    profile     bigint not null
        generated always as (model_profile(type, base, format, variant, prediction, state, judged, kinds)) stored
);
create index model_profiles_profile on model_profiles (profile);

-- dropped first: they would be made anew with the column, and again after it. The function of facts stays for the release before
drop index model_search_found, model_search_name, model_search_size, model_search_created, model_search_updated;

alter table model_search add column profile bigint not null generated always as (model_profile(type, base, format, variant, prediction,
    state, case when verdict is null then 'none' when verdict_stale then 'stale' else verdict end, kinds)) stored;
insert into model_profiles (type, base, format, variant, prediction, state, judged, kinds)
    select distinct type, base, format, variant, prediction, state, judged, kinds from model_search;

create function model_profiles_learn() returns trigger language plpgsql as $$
begin
    insert into model_profiles (type, base, format, variant, prediction, state, judged, kinds)
    select distinct type, base, format, variant, prediction, state, judged, kinds from changed
    where not exists (select 1 from model_profiles known where known.profile = changed.profile);
    return null;
end
$$;
create trigger model_profiles_added after insert on model_search
    referencing new table as changed for each statement execute function model_profiles_learn();
create trigger model_profiles_changed after update on model_search
    referencing new table as changed for each statement execute function model_profiles_learn();

create index model_search_profile on model_search (profile);
create index model_search_name on model_search (type, name, model_id) include (profile, size_bytes, folded);
create index model_search_size on model_search (type, size_bytes, model_id) include (profile, folded);
create index model_search_created on model_search (type, created_at, model_id) include (profile, size_bytes, folded);
create index model_search_updated on model_search (type, updated_at, model_id) include (profile, size_bytes, folded);
-- one index for both, so that they are intersected in it: rows whose text has to be compared are dear. A tag may look like a host:
-- who asks compares the columns as well
create index model_search_found on model_search using gin (document, (tags || hosts)) with (gin_pending_list_limit = 256);
