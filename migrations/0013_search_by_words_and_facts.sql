-- Searches answer from short index scans: words are looked up in a vocabulary instead of in every model, what a model is and has
-- is one index, and rows are narrow. The read model is written for many models at a time.

-- Every word that a document of `model_search` has, or had once: what a mistyped word may mean, and which words a beginning begins.
-- Only appended to and without a unique index, so that writers never wait for each other; a word may be there twice.
create table search_words (word text collate "C" not null);
create index search_words_word on search_words (word);

alter table model_search
    -- of its components, and the hosts that have it; both in order
    add column kinds text[] not null default '{}',
    add column hosts text[] not null default '{}',
    -- compared byte by byte
    add column folded text collate "C" not null generated always as (lower(name)) stored,
    -- Postgres moves values out only of rows of more than two kilobytes: this one makes every row such, and takes thirty bytes
    add column filler text not null default repeat(' ', 2100),
    -- texts are moved out, so that a page of the table holds three times as many models; all else stays
    alter column document set storage external,
    alter column model_id set storage main,
    alter column name set storage main,
    alter column title set storage main,
    alter column type set storage main,
    alter column base set storage main,
    alter column format set storage main,
    alter column variant set storage main,
    alter column prediction set storage main,
    alter column state set storage main,
    alter column reason set storage main,
    alter column content_digest set storage main,
    alter column sha256 set storage main,
    alter column payload_sha256 set storage main,
    alter column tags set storage main,
    alter column words set storage external,
    alter column verdict set storage main,
    alter column judged set storage main,
    alter column kinds set storage main,
    alter column hosts set storage main,
    alter column folded set storage main;
alter table model_search set (toast_tuple_target = 128);

-- What a model is and has, as the elements of one index. A tag may look like another fact: who asks compares the columns as well.
create function model_search_facts(tags text[], kinds text[], hosts text[], type text, base text, format text, variant text,
    prediction text, state text, judged text) returns text[] language sql immutable parallel safe as $$
    select tags || kinds || hosts || array['type:' || type, 'base:' || base, 'format:' || format, 'variant:' || variant,
        'prediction:' || prediction, 'state:' || state, 'judged:' || judged]
$$;

-- Keeps what these models have and had in the words.
create function search_words_learn(documents tsvector[]) returns void language sql as $$
    insert into search_words (word)
    select met.word from (select distinct word from unnest(documents) as document, unnest(tsvector_to_array(document)) as word) as met
    -- looked up word by word: a join might read the whole vocabulary for one model
    where not exists (select 1 from search_words known where known.word = met.word collate "C" offset 0)
$$;

-- Writes the whole rows of these models anew.
create function model_search_renew(these text[]) returns void language plpgsql as $$
declare
    documents tsvector[];
begin
    with made as materialized (
        select m.id, m.name, said.title, coalesce(m.overrides ->> 'type', m.type) as type, coalesce(m.overrides ->> 'base', m.base) as base,
            m.format, m.variant, coalesce(m.overrides ->> 'prediction', m.prediction) as prediction, m.size_bytes, m.state, m.reason,
            m.content_digest, m.sha256, m.payload_sha256,
            array(select distinct lower(tag) from unnest(said.tags) as tag order by 1) as tags,
            left(concat_ws(' ', m.name, said.title, more.tagged), 1000) as words,
            setweight(to_tsvector('simple', search_text(concat_ws(' ', m.name, said.title))), 'A')
                || setweight(to_tsvector('simple', search_text(more.tagged)), 'B')
                || setweight(to_tsvector('simple', search_text(concat_ws(' ', m.rel_path, said.author))), 'C')
                || setweight(to_tsvector('simple', search_text(regexp_replace(said.description, '<[^>]*>', ' ', 'g'))), 'D') as document,
            m.created_at, greatest(m.updated_at, u.updated_at) as updated_at,
            array(select kind from model_components where model_id = m.id order by 1) as kinds,
            array(select host from model_locations where model_id = m.id order by 1) as hosts
        from models m left join model_metadata u on u.model_id = m.id
        cross join lateral (
            -- made once each: without the offset every use would make them anew
            select left(coalesce(u.title, extracted ->> 'title'), 1000) as title, left(extracted ->> 'author', 1000) as author,
                left(concat_ws(' ', u.description, extracted ->> 'description'), 16000) as description,
                u.tags || array(select jsonb_array_elements_text(case when jsonb_typeof(extracted -> 'tags') = 'array'
                    then extracted -> 'tags' else '[]' end)) as tags,
                array(select jsonb_array_elements_text(case when jsonb_typeof(extracted -> 'trigger_words') = 'array'
                    then extracted -> 'trigger_words' else '[]' end)) as triggers
            from (select m.metadata -> 'extracted') as file (extracted) offset 0
        ) as said
        cross join lateral (select left(array_to_string(said.tags || said.triggers, ' '), 16000) as tagged offset 0) as more
        where m.id = any(these)
    ), written as (
        insert into model_search as s (model_id, name, title, type, base, format, variant, prediction, size_bytes, state, reason,
            content_digest, sha256, payload_sha256, tags, words, document, created_at, updated_at, kinds, hosts)
        select * from made order by id
        on conflict (model_id) do update set name = excluded.name, title = excluded.title, type = excluded.type, base = excluded.base,
            format = excluded.format, variant = excluded.variant, prediction = excluded.prediction, size_bytes = excluded.size_bytes,
            state = excluded.state, reason = excluded.reason, content_digest = excluded.content_digest, sha256 = excluded.sha256,
            payload_sha256 = excluded.payload_sha256, tags = excluded.tags, words = excluded.words, document = excluded.document,
            created_at = excluded.created_at, updated_at = excluded.updated_at, kinds = excluded.kinds, hosts = excluded.hosts
        returning document
    )
    select array_agg(document) into documents from written;
    perform search_words_learn(documents);
end
$$;

-- Whether who writes models says himself, at the end, that they are to be renewed: a scan writes a model, its places and its parts
-- one after the other, and would have each row made three times.
create function model_search_waits() returns boolean language sql stable as $$
    select coalesce(current_setting('modelyard.search_waits', true), '') = 'on'
$$;

create function model_search_follow_new() returns trigger language plpgsql as $$
begin
    if not model_search_waits() then
        perform model_search_renew(array(select id from changed));
    end if;
    return null;
end
$$;

create function model_search_follow_update() returns trigger language plpgsql as $$
begin
    if model_search_waits() then
        return null;
    end if;
    if exists (select 1 from changed join before using (id)
        where (changed.name, changed.rel_path, changed.metadata) is distinct from (before.name, before.rel_path, before.metadata)) then
        perform model_search_renew(array(select id from changed));
    else
        -- the text is as before, and making it is the costly part
        update model_search s set type = coalesce(m.overrides ->> 'type', m.type), base = coalesce(m.overrides ->> 'base', m.base),
            format = m.format, variant = m.variant, prediction = coalesce(m.overrides ->> 'prediction', m.prediction),
            size_bytes = m.size_bytes, state = m.state, reason = m.reason, content_digest = m.content_digest,
            sha256 = m.sha256, payload_sha256 = m.payload_sha256, updated_at = greatest(s.updated_at, m.updated_at)
        from changed m where s.model_id = m.id;
    end if;
    return null;
end
$$;

create function model_search_follow_said() returns trigger language plpgsql as $$
begin
    perform model_search_renew(array(select model_id from changed));
    return null;
end
$$;

create function model_search_follow_belongings() returns trigger language plpgsql as $$
begin
    if model_search_waits() then
        return null;
    end if;
    update model_search s set kinds = now.kinds, hosts = now.hosts
    from (select id, array(select kind from model_components where model_id = id order by 1) as kinds,
            array(select host from model_locations where model_id = id order by 1) as hosts
        from (select distinct model_id as id from changed) as models) as now
    where s.model_id = now.id and (s.kinds, s.hosts) is distinct from (now.kinds, now.hosts);
    return null;
end
$$;

drop trigger model_search on models;
drop trigger model_search on model_metadata;
drop function model_search_follow_model();
drop function model_search_follow_metadata();
drop function model_search_renew(text);

create trigger model_search_added after insert on models
    referencing new table as changed for each statement execute function model_search_follow_new();
create trigger model_search_changed after update on models
    referencing old table as before new table as changed for each statement execute function model_search_follow_update();
create trigger model_search_said after insert on model_metadata
    referencing new table as changed for each statement execute function model_search_follow_said();
create trigger model_search_said_anew after update on model_metadata
    referencing new table as changed for each statement execute function model_search_follow_said();
create trigger model_search_found after insert on model_locations
    referencing new table as changed for each statement execute function model_search_follow_belongings();
create trigger model_search_lost after delete on model_locations
    referencing old table as changed for each statement execute function model_search_follow_belongings();
create trigger model_search_part_found after insert on model_components
    referencing new table as changed for each statement execute function model_search_follow_belongings();
create trigger model_search_part_lost after delete on model_components
    referencing old table as changed for each statement execute function model_search_follow_belongings();

-- Every row is written anew, so that its text moves out. Verdicts are kept: nothing of them changes.
drop index model_search_tags, model_search_document, model_search_words, model_search_parts, model_search_name, model_search_size,
    model_search_created, model_search_updated, model_search_beginning, model_search_type, model_search_base,
    model_search_state, model_search_prediction, model_search_judged;
create temporary table judged on commit drop as
    select model_id, verdict, verdict_stale from model_search where verdict is not null;
truncate model_search;
do $$
declare
    these text[];
    last text := '';
begin
    loop
        these := array(select id from models where id > last order by id limit 2000);
        exit when these = '{}';
        perform model_search_renew(these);
        last := these[cardinality(these)];
    end loop;
end
$$;
update model_search s set verdict = j.verdict, verdict_stale = j.verdict_stale from judged j where j.model_id = s.model_id;

-- what is only digits has no mistakes that one could tell
create index search_words_near on search_words using gin (word gin_trgm_ops) with (gin_pending_list_limit = 128) where word ~ '[^0-9]';
-- one index for both, so that they are intersected in it: rows whose text has to be compared are dear
create index model_search_found on model_search
    using gin (document, model_search_facts(tags, kinds, hosts, type, base, format, variant, prediction, state, judged))
    with (gin_pending_list_limit = 256);
create index model_search_parts on model_search using gin (folded gin_trgm_ops) with (gin_pending_list_limit = 256);
create index model_search_beginning on model_search (folded, model_id);
-- a walk in an order looks at these in the index itself; a list of hosts may be too long for one
create index model_search_name on model_search (name, model_id)
    include (folded, type, base, format, variant, prediction, state, size_bytes, judged, kinds);
create index model_search_size on model_search (size_bytes, model_id)
    include (folded, type, base, format, variant, prediction, state, judged, kinds);
create index model_search_created on model_search (created_at, model_id)
    include (folded, type, base, format, variant, prediction, state, size_bytes, judged, kinds);
create index model_search_updated on model_search (updated_at, model_id)
    include (folded, type, base, format, variant, prediction, state, size_bytes, judged, kinds);
